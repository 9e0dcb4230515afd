"""The lab's theme on Gradio's, and what Gradio is told when it is mounted.

The colours live in static/crucible.css as custom properties, once for light and once for dark; the
theme only says which of Gradio's variables takes which.
"""

import base64
from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).parents[2] / "static"

_SANS = ("Inter", "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_ACCENT = gr.themes.Color(
    c50="#eef5f9", c100="#d9e8f1", c200="#b5d2e3", c300="#8ab7d1", c400="#5fa8d3", c500="#2a6f97",
    c600="#2a6f97", c700="#225c7e", c800="#1b4965", c900="#14384e", c950="#0c2433",
)  # fmt: skip
_TEXT = gr.themes.Size(
    xxs="11px", xs="12px", sm="12px", md="14px", lg="14px", xl="16px", xxl="20px", name="text_lab"
)
_RADIUS = gr.themes.Size(
    xxs="4px", xs="4px", sm="6px", md="8px", lg="8px", xl="10px", xxl="10px", name="radius_lab"
)

_GROUND, _PANEL, _LINE = "var(--lab-ground)", "var(--lab-panel)", "var(--lab-line)"
_INK, _MUTED, _MARK = "var(--lab-ink)", "var(--lab-muted)", "var(--lab-accent)"

_VARIABLES = {
    "body_background_fill": _GROUND,
    "background_fill_primary": _PANEL,
    "background_fill_secondary": _GROUND,
    "body_text_color": _INK,
    "body_text_color_subdued": _MUTED,
    "border_color_primary": _LINE,
    "border_color_accent": _MARK,
    "color_accent_soft": "var(--lab-soft)",
    "link_text_color": _MARK,
    "link_text_color_hover": _MARK,
    "link_text_color_visited": _MARK,
    "link_text_color_active": _MARK,
    "code_background_fill": "var(--lab-well)",
    "block_background_fill": "transparent",
    "block_border_color": _LINE,
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_text_color": _MUTED,
    "block_label_border_width": "0px",
    "block_title_text_color": _INK,
    "block_info_text_color": _MUTED,
    "panel_background_fill": _PANEL,
    "panel_border_color": _LINE,
    "accordion_text_color": _INK,
    "table_text_color": _INK,
    "table_border_color": _LINE,
    "table_even_background_fill": _PANEL,
    "table_odd_background_fill": _PANEL,
    "table_row_focus": "var(--lab-soft)",
    "input_background_fill": "var(--lab-well)",
    "input_background_fill_focus": _PANEL,
    "input_background_fill_hover": "var(--lab-well)",
    "input_border_color": "var(--lab-edge)",
    "input_border_color_focus": _MARK,
    "input_border_color_hover": "var(--lab-edge)",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_placeholder_color": _MUTED,
    "checkbox_background_color": _PANEL,
    "checkbox_background_color_selected": "var(--lab-button)",
    "checkbox_border_color": "var(--lab-edge)",
    "checkbox_border_color_focus": _MARK,
    "checkbox_border_color_selected": "var(--lab-button)",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_hover": "var(--lab-soft)",
    "checkbox_label_background_fill_selected": "var(--lab-soft)",
    "checkbox_label_border_color": _LINE,
    "checkbox_label_border_color_selected": _MARK,
    "checkbox_label_text_color": _INK,
    "checkbox_label_text_color_selected": _INK,
    "slider_color": "var(--lab-button)",
    "stat_background_fill": "var(--lab-button)",
    "loader_color": _MARK,
    "button_primary_background_fill": "var(--lab-button)",
    "button_primary_background_fill_hover": "var(--lab-button-hover)",
    "button_primary_border_color": "var(--lab-button)",
    "button_primary_border_color_hover": "var(--lab-button-hover)",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_hover": "#ffffff",
    "button_secondary_background_fill": _PANEL,
    "button_secondary_background_fill_hover": "var(--lab-soft)",
    "button_secondary_border_color": "var(--lab-edge)",
    "button_secondary_border_color_hover": _MARK,
    "button_secondary_text_color": _INK,
    "button_secondary_text_color_hover": _INK,
    "button_cancel_background_fill": _PANEL,
    "button_cancel_background_fill_hover": "var(--lab-wrong-soft)",
    "button_cancel_border_color": "var(--lab-edge)",
    "button_cancel_border_color_hover": "var(--lab-wrong)",
    "button_cancel_text_color": "var(--lab-wrong)",
    "button_cancel_text_color_hover": "var(--lab-wrong)",
    "error_background_fill": _PANEL,
    "error_border_color": "var(--lab-wrong)",
    "error_text_color": "var(--lab-wrong)",
    "error_icon_color": "var(--lab-wrong)",
}

_MEASURES = {
    "button_border_width": "1px",
    "button_large_padding": "8px 16px",
    "button_medium_padding": "6px 14px",
    "button_small_padding": "4px 10px",
    "button_large_radius": "8px",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "500",
    "button_transition": "background-color .12s, border-color .12s",
    "block_padding": "0px",
    "block_radius": "8px",
    "block_title_text_weight": "500",
    "block_label_text_weight": "500",
    "block_title_text_size": "14px",
    "block_info_text_size": "12px",
    "input_padding": "7px 10px",
    "input_radius": "8px",
    "layout_gap": "16px",
    "form_gap_width": "16px",
    "shadow_drop": "none",
    "shadow_drop_lg": "var(--lab-shadow)",
    "shadow_spread": "0px",
}


def lab_theme() -> Any:
    """Return the lab's Gradio theme; light and dark differ only in the custom properties behind it."""
    theme = gr.themes.Base(
        primary_hue=_ACCENT,
        secondary_hue=_ACCENT,
        neutral_hue="slate",
        text_size=_TEXT,
        radius_size=_RADIUS,
        spacing_size=gr.themes.sizes.spacing_md,
        font=_SANS,
        font_mono=_MONO,
    )
    dark = {f"{name}_dark": value for name, value in _VARIABLES.items()}
    return theme.set(**_VARIABLES, **dark, **_MEASURES)


def mount_options() -> dict[str, Any]:
    """Return what the page's look adds to the arguments of `gradio.mount_gradio_app`."""
    script = (STATIC / "crucible.js").read_text(encoding="utf-8")
    icon = base64.b64encode((STATIC / "icon.svg").read_bytes()).decode()
    return {
        "theme": lab_theme(),
        "css_paths": [STATIC / "crucible.css"],
        "head": '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml;base64,{icon}">'
        f"<script>{script}</script>",
    }
