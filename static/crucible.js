// Crucible: the little that the browser does itself. No data leaves or enters here.
(() => {
  const tabs = () => [...document.querySelectorAll("#lab-pages > .tab-wrapper [role=tab]")];
  const query = () => new URLSearchParams(location.search);
  const put = (changes) => {
    const q = query();
    for (const [key, value] of Object.entries(changes)) value ? q.set(key, value) : q.delete(key);
    const text = q.toString();
    history.replaceState(null, "", text ? `?${text}` : location.pathname);
  };

  // A tab is in the address, so that a reload and a link show the same page.
  const show = (page) => {
    const tab = tabs().find((button) => button.dataset.tabId === page);
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  };
  let landed = false; // the tabs take a moment to answer a click
  const land = () => {
    const wanted = tabs().find((button) => button.dataset.tabId === query().get("view")) || tabs()[0];
    landed ||= wanted?.getAttribute("aria-selected") === "true";
    if (wanted && !landed) wanted.click();
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#lab-pages > .tab-wrapper [role=tab]");
    if (tab) put({ view: tab.dataset.tabId });
    const link = event.target.closest("a[data-view]");
    if (link) { event.preventDefault(); show(link.dataset.view); }
  });

  // A dangerous button asks once more, in place.
  const sure = (button) => {
    if (!button.dataset.sure || button.classList.contains("lab-armed")) return true;
    const words = button.textContent;
    button.classList.add("lab-armed");
    button.textContent = button.dataset.sure;
    setTimeout(() => { button.classList.remove("lab-armed"); button.textContent = words; }, 4000);
    return false;
  };

  // A path is copied where the browser allows it; else it is marked, ready for Ctrl+C.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      const path = button.parentElement.querySelector("code");
      if (path) getSelection().selectAllChildren(path);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = words; }, 2000);
  });

  // A model that is chosen in the table or the family picture is shown at the top of the page.
  const choose = (name) => {
    const rows = [...document.querySelectorAll("#lab-models .lab-row .lab-link")];
    rows.find((row) => row.dataset.id === name && !row.hasAttribute("aria-current"))?.click();
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#lab-models .lab-row .lab-link")) return;
    const top = document.querySelector("#lab-family")?.getBoundingClientRect().top ?? 0;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (top < 0) scrollBy({ top: top - 68, behavior: calm ? "auto" : "smooth" });
  });
  const bindPicture = () => {
    const picture = document.querySelector("#lab-lineage .js-plotly-plot");
    if (!picture || !picture.on || picture.dataset.bound) return;
    picture.dataset.bound = "yes";
    picture.on("plotly_click", (event) => {
      const name = event.points.map((point) => point.customdata).find((one) => typeof one === "string");
      if (name) choose(name);
    });
  };

  // Folds that the reader opened stay open when their text is redrawn.
  const opened = new Set();
  document.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    const fold = summary && summary.parentElement;
    if (!fold || !fold.dataset.key) return;
    fold.open ? opened.delete(fold.dataset.key) : opened.add(fold.dataset.key);
  }, true);

  // A button that was pressed by keyboard keeps the focus when its row is drawn anew in another place.
  let focused = "";
  document.addEventListener("focusin", (event) => { focused = event.target.closest("button[data-key]")?.dataset.key || ""; });
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest("button[data-key]")) focused = ""; });
  const refocus = () => {
    const active = document.activeElement || document.body;
    if (!focused || active.dataset.key === focused) return;
    if (active !== document.body && !active.matches("button[data-key]")) return;
    const button = document.querySelector(`button[data-key="${CSS.escape(focused)}"]`);
    const next = button && button.disabled ? button.parentElement.querySelector("button:enabled") : button;
    if (next) next.focus({ preventScroll: true });
  };

  // Clocks run here, so that the server need not send a second's ticking.
  const started = new Map();
  const tick = () => {
    for (const clock of document.querySelectorAll(".lab-clock")) {
      const key = clock.dataset.key;
      if (!started.has(key)) started.set(key, performance.now() - 1000 * Number(clock.dataset.seconds || 0));
      const text = `${((performance.now() - started.get(key)) / 1000).toFixed(1)} s`;
      if (clock.textContent !== text) clock.textContent = text;
    }
  };
  setInterval(tick, 200);

  // New text is followed only while the reader is at the bottom of the answers.
  let atBottom = false;
  const foot = () => document.querySelector("#lab-ask");
  addEventListener("scroll", () => {
    const box = foot() && foot().getBoundingClientRect();
    atBottom = !!box && box.height > 0 && box.bottom <= innerHeight + 40 && box.top > 0;
  }, { passive: true });
  const follow = () => {
    const box = foot() && foot().getBoundingClientRect();
    if (atBottom && box && box.bottom > innerHeight && document.querySelector(".lab-caret"))
      scrollBy(0, box.bottom - innerHeight + 16);
  };

  // What a page shows (a run, a job) goes into the address when the page says so.
  const addresses = new Map();
  // A question leaves its box when its answers begin, unless the reader has written another meanwhile.
  let asked = null;
  const box = () => document.querySelector("#lab-question textarea");
  document.addEventListener("click", (event) => {
    if (event.target.closest("#lab-ask-button") && box()) asked = box().value;
  }, true);
  const taken = (key) => {
    if (key !== "run" || asked === null || !box()) return;
    if (box().value === asked) { box().value = ""; box().dispatchEvent(new Event("input", { bubbles: true })); }
    asked = null;
  };
  const address = () => {
    for (const part of document.querySelectorAll("[data-address]")) {
      const { address: key, value } = part.dataset;
      if (addresses.get(key) === value) continue;
      addresses.set(key, value);
      put({ [key]: value });
      taken(key);
    }
  };

  new MutationObserver(() => {
    land();
    address();
    bindPicture();
    refocus();
    for (const fold of document.querySelectorAll("details[data-key]"))
      if (opened.has(fold.dataset.key) && !fold.open) fold.open = true;
    follow();
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["open"] });

  // A question is sent with Ctrl+Enter (or Command+Enter) too.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    if (event.target.closest("#lab-question")) document.querySelector("button#lab-ask-button")?.click();
  });

  window.crucible = { put, show, sure, query };
})();
