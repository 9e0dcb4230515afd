"""The Merge page's form, laid out: rows of models, the method with its knobs, what is folded away.

Makes components and binds nothing; `lab.ui.pages.merge` does that.
"""

from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from lab.merge.registry import merge_methods
from lab.merge.spec import Dtype, MergeSpec
from lab.merge.statistics import DATA
from lab.ui import form, mergetexts, widgets
from lab.ui.mergechoice import ordered_methods, which_one

MOST_INPUTS = 8
FIRST = "ties"
KEEP = "as the models"
MODEL, ADAPTER = "a full model", "an adapter"
VOCABULARIES = [
    ("the models', row by row", ""),
    ("every model's tokens (union)", "union"),
    ("the base's tokens", "base"),
]


@dataclass(frozen=True)
class Parts:
    """The components of the page, by what they are for."""

    models: list[Any]
    weights: list[Any]
    rows: list[Any]
    method: Any
    words: Any
    knobs: form.SharedForm
    stack: Any
    drop: Any
    ranges: Any
    base: Any
    name: Any
    dtype: Any
    use_recipe: Any
    recipe: Any
    keep: Any
    of_adapters: Any
    result: Any
    rank: Any
    tokenizer: Any
    data: Any

    @property
    def inputs(self) -> list[Any]:
        """What a handler reads, in the order of `_Merge.read`."""
        return [
            self.method, self.base, self.name, self.dtype, self.ranges, self.use_recipe, self.recipe,
            self.keep, self.result, self.rank, self.tokenizer, self.data,
            *self.models, *self.weights, *self.knobs.inputs,
        ]  # fmt: skip


def lay_out_form() -> tuple[Parts, list[Any], tuple[Any, Any]]:
    """Make the controls; return them, the lines for problems with the recipe, and two buttons."""
    models, weights, rows, buttons = _lay_out_inputs()
    model_line = widgets.picture(elem_classes="lab-field-problem")
    of_adapters, result, rank = _lay_out_result()
    method = gr.Dropdown(label="Method", choices=ordered_methods(), value=FIRST, elem_id="lab-merge-method")
    words = widgets.picture(method_words(FIRST))
    widgets.picture(which_one(), elem_id="lab-merge-which")
    knobs = _lay_out_knobs()
    data = mergetexts.control(is_shown=merge_methods[FIRST].reads_text)
    stack, drop, ranges = _lay_out_stack()
    base = gr.Dropdown(
        label="Base", choices=[], elem_id="lab-merge-base", info="What the models were tuned from"
    )
    base_line = widgets.picture(elem_classes="lab-field-problem")
    name = gr.Textbox(label="Name of the result", max_lines=1, elem_id="lab-merge-name")
    name_line = widgets.picture(elem_classes="lab-field-problem")
    dtype, use_recipe, recipe, keep, recipe_line, tokenizer = _lay_out_advanced()
    parts = Parts(
        models, weights, rows, method, words, knobs, stack, drop, ranges, base, name, dtype,
        use_recipe, recipe, keep, of_adapters, result, rank, tokenizer, data,
    )  # fmt: skip
    return parts, [model_line, base_line, name_line, recipe_line, recipe], buttons


def _lay_out_inputs() -> tuple[list[Any], list[Any], list[Any], tuple[Any, Any]]:
    """Make a row for each model that there may be, and the buttons for more and fewer."""
    models, weights, rows = [], [], []
    with gr.Column(elem_classes="lab-inputs"):
        for place in range(MOST_INPUTS):
            label = {"show_label": place == 0}
            with gr.Row(visible=place < 2, elem_classes="lab-input", equal_height=True) as row:
                widgets.picture(widgets.letter(place), elem_classes="lab-letter-cell", min_width=24, scale=0)
                models.append(
                    gr.Dropdown(label=f"Model {widgets.LETTERS[place]}", scale=5, min_width=120, **label)
                )
                weights.append(gr.Number(value=1.0, label="Weight", step=0.1, scale=2, min_width=64, **label))
            rows.append(row)
        with gr.Row():
            more = gr.Button("Add a model", size="sm", elem_id="lab-merge-more")
            fewer = gr.Button("Remove the last", size="sm", elem_id="lab-merge-fewer")
    return models, weights, rows, (more, fewer)


def _lay_out_result() -> tuple[Any, Any, Any]:
    """Make the choice that only adapters of one base have: a full model or an adapter comes out."""
    with gr.Column(visible=False, elem_id="lab-merge-result") as group:
        result = gr.Radio([MODEL, ADAPTER], value=MODEL, label="What comes out")
        rank = gr.Number(
            value=0, label="Rank of the adapter", step=1, precision=0, visible=False,
            info="0 keeps a weighted sum whole; other methods take the largest rank among the adapters.",
        )  # fmt: skip
    return group, result, rank


def _lay_out_stack() -> tuple[Any, Any, Any]:
    """Make the part for stacking layers: n is the model's, m is asked, and the ranges can be edited."""
    with gr.Column(visible=False) as stack:
        drop = gr.Number(label="Layers that each copy loses (m)", value=8, step=1, minimum=0)
        ranges = gr.Textbox(
            label="Layer ranges, bottom to top",
            lines=3,
            info="0-24 is layers 0 to 23. Name another model before a colon: pirate: 0-24.",
        )
    return stack, drop, ranges


def _lay_out_advanced() -> tuple[Any, Any, Any, Any, Any, Any]:
    """Make the folded part: precision, the recipe as YAML, and the line for problems with it."""
    with gr.Accordion("Advanced", open=False, elem_classes="lab-accordion"):
        dtype = gr.Dropdown(label="Precision of the result", choices=[KEEP, *get_args(Dtype)], value=KEEP)
        tokenizer = gr.Dropdown(
            label="Vocabulary of the result", choices=VOCABULARIES, value="", elem_id="lab-merge-tokenizer",
            info="Models with different tokenizers need one of the other two.",
        )  # fmt: skip
        use_recipe = gr.Checkbox(
            label="Use the YAML below instead of the form", value=False, elem_id="lab-merge-use-yaml"
        )
        # Above the box: below a long recipe nobody would see it.
        line = widgets.picture(elem_id="lab-merge-yaml-line", elem_classes="lab-field-problem")
        recipe = gr.Textbox(
            label="Recipe (mergekit YAML)", lines=8, max_lines=24, elem_classes="lab-code",
            elem_id="lab-merge-yaml", buttons=["copy"],
            info="The form writes it; paste yours for gradients, filters, slices, or experts (mergekit-moe).",
        )  # fmt: skip
        keep = gr.Checkbox(
            label="List the merges on the way too", value=False, visible=False, elem_id="lab-merge-keep",
            info="Else they are made in the job's folder, and go with it.",
        )  # fmt: skip
    return dtype, use_recipe, recipe, keep, line, tokenizer


def _lay_out_knobs() -> form.SharedForm:
    """Make the knobs of all methods; those of equal name, type and bounds are one control."""
    fields = {}
    for chosen in merge_methods.values():
        fields[chosen.name] = {
            name: info for name, info in chosen.parameters.items() if name not in ("weight", DATA)
        }
        if chosen.is_random:
            fields[chosen.name]["seed"] = MergeSpec.model_fields["seed"]
    with gr.Row(elem_classes="lab-knobs"):
        return form.make_shared_form(fields, FIRST)


def method_words(method: str) -> str:
    """Say when to use a method and where it was published."""
    chosen = merge_methods[method]
    return (
        f'<p class="lab-muted lab-small" style="margin:0">{widgets.esc(chosen.use)}'
        f"<br>{widgets.esc(chosen.source)}</p>"
    )
