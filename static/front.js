// Before Gradio builds the page: the tab that the address names is in front from the start.
(() => {
  const parts = window.gradio_config?.components || [];
  const view = new URLSearchParams(location.search).get("view");
  const tabs = parts.find((part) => part.props?.elem_id === "lab-pages");
  if (tabs && parts.some((part) => part.type === "tabitem" && part.props.id === view)) tabs.props.selected = view;
})();
