"""The Merge page: models and a method on the left, what will come out on the right, the result in place."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, Problem, problems_of
from lab.core.spec import free_name
from lab.merge.recipe import write_recipe
from lab.merge.registry import merge_methods
from lab.merge.spec import Dtype
from lab.ui import form, mergeform, modelview, widgets
from lab.ui.pages.running import Running
from lab.ui.redraw import Part, every, only_changed, when_page_opens
from lab.ui.services import Services

MOST_INPUTS = 8
_FIRST = "ties"
_KEEP = "as the models"
_NO_BASE = "(none)"
_RECIPE_PLACE = 6
"""Where the recipe stands among the form's inputs."""

_ALONE = widgets.empty_state(
    "A merge takes two models",
    "Fine-tune the one that is here, then merge the result with it. Or stack its layers with passthrough.",
    '<a class="lab-button lab-primary" href="?view=finetune" data-view="finetune">Fine-tune a model</a>',
)


@dataclass(frozen=True)
class _Parts:
    """The components of the page, by what they are for."""

    models: list[Any]
    weights: list[Any]
    rows: list[Any]
    method: Any
    words: Any
    forms: Mapping[str, form.Form]
    groups: list[Any]
    stack: Any
    drop: Any
    ranges: Any
    base: Any
    name: Any
    dtype: Any
    use_recipe: Any
    recipe: Any

    @property
    def inputs(self) -> list[Any]:
        """What a handler reads, in the order of `_Merge.read`."""
        knobs = [component for name in merge_methods for component in self.forms[name].inputs]
        return [
            self.method, self.base, self.name, self.dtype, self.ranges, self.use_recipe, self.recipe,
            *self.models, *self.weights, *knobs,
        ]  # fmt: skip


def build(services: Services) -> None:
    """Lay out the page and bind it to the merge room's spec and check."""
    widgets.picture(widgets.head("Merge", "Make one model out of two to eight, without training."))
    with gr.Row(elem_classes="lab-split", equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="lab-panel"):
            parts, lines, buttons = _lay_out_form()
        with gr.Column(scale=8, min_width=320):
            with gr.Column(elem_classes="lab-panel"):
                widgets.picture('<h2 class="lab-h2">What will come out</h2>')
                outcome = widgets.picture(elem_id="lab-merge-plan")
                start = gr.Button("Merge", variant="primary", elem_id="lab-merge-start")
                problems = widgets.picture(elem_id="lab-merge-problems")
            running = widgets.board(elem_id="lab-merge-running")
            with gr.Column(elem_classes="lab-panel lab-chart", visible=False) as heat:
                widgets.picture('<h2 class="lab-h2">Weight of each model, layer by layer</h2>')
                chart = gr.Plot(show_label=False, container=False, elem_id="lab-merge-heat")
    page = _Merge(services, parts)
    job, seen, count, choices = gr.State(""), gr.State(()), gr.State(2), gr.State(())
    told = [outcome, heat, chart, *lines, gr.State(""), start]
    _bind_form(page, parts, told, count, buttons)
    live = Running(services, "merge", "job_merge", page.result)
    when_page_opens(page.open, None, [*parts.models, parts.base, parts.name, choices], "merge_open").then(
        page.check, [*parts.inputs, told[-2]], told, api_name="merge_check_first", show_progress="hidden"
    )
    when_page_opens(live.open, None, [job, running, seen], "merge_running_open")
    timer = gr.Timer(1)
    models = Part(page.choices, [choices], [*parts.models, parts.base, choices])
    every(timer, [models, Part(live.draw, [job, seen], [running, seen])], "merge_tick")
    start.click(
        page.start, parts.inputs, [problems, job, parts.name], api_name="merge", show_progress="minimal"
    ).then(live.draw, [job, seen], [running, seen], api_name="merge_started", show_progress="hidden")
    running.click(
        live.press,
        [job, seen],
        [job, problems, running, seen],
        api_name="merge_press",
        show_progress="hidden",
    )


def _lay_out_form() -> tuple[_Parts, list[Any], tuple[Any, Any]]:
    """Make the controls; return them, the lines for problems with the recipe, and two buttons."""
    models, weights, rows, buttons = _lay_out_inputs()
    model_line = widgets.picture(elem_classes="lab-field-problem")
    method = gr.Dropdown(
        label="Method", choices=list(merge_methods), value=_FIRST, elem_id="lab-merge-method"
    )
    words = widgets.picture(_method_words(_FIRST))
    forms, groups = _knob_groups()
    stack, drop, ranges = _lay_out_stack()
    base = gr.Dropdown(
        label="Base", choices=[], elem_id="lab-merge-base", info="What the models were tuned from"
    )
    base_line = widgets.picture(elem_classes="lab-field-problem")
    name = gr.Textbox(label="Name of the result", max_lines=1, elem_id="lab-merge-name")
    name_line = widgets.picture(elem_classes="lab-field-problem")
    dtype, use_recipe, recipe, recipe_line = _lay_out_advanced()
    parts = _Parts(
        models, weights, rows, method, words, forms, groups, stack, drop, ranges, base, name, dtype,
        use_recipe, recipe,
    )  # fmt: skip
    return parts, [model_line, base_line, name_line, recipe_line, recipe], buttons


def _lay_out_inputs() -> tuple[list[Any], list[Any], list[Any], tuple[Any, Any]]:
    """Make a row for each model that there may be, and the buttons for more and fewer."""
    models, weights, rows = [], [], []
    with gr.Column(elem_classes="lab-inputs"):
        for place in range(MOST_INPUTS):
            label = {"show_label": place == 0}
            with gr.Row(visible=place < 2, elem_classes="lab-input", equal_height=True) as row:
                widgets.picture(widgets.letter(place), min_width=24, scale=0)
                models.append(
                    gr.Dropdown(label=f"Model {widgets.LETTERS[place]}", scale=5, min_width=120, **label)
                )
                weights.append(gr.Number(value=1.0, label="Weight", step=0.1, scale=2, min_width=64, **label))
            rows.append(row)
        with gr.Row():
            more = gr.Button("Add a model", size="sm", elem_id="lab-merge-more")
            fewer = gr.Button("Remove the last", size="sm", elem_id="lab-merge-fewer")
    return models, weights, rows, (more, fewer)


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


def _lay_out_advanced() -> tuple[Any, Any, Any, Any]:
    """Make the folded part: precision, the recipe as YAML, and the line for problems with it."""
    with gr.Accordion("Advanced", open=False, elem_classes="lab-accordion"):
        dtype = gr.Dropdown(label="Precision of the result", choices=[_KEEP, *get_args(Dtype)], value=_KEEP)
        use_recipe = gr.Checkbox(
            label="Use the YAML below instead of the form", value=False, elem_id="lab-merge-use-yaml"
        )
        # Above the box: below a long recipe nobody would see it.
        line = widgets.picture(elem_id="lab-merge-yaml-line", elem_classes="lab-field-problem")
        recipe = gr.Textbox(
            label="Recipe (mergekit YAML)", lines=8, max_lines=24, elem_classes="lab-code",
            elem_id="lab-merge-yaml", buttons=["copy"],
            info="The form writes it; paste yours for gradients, filters, slices.",
        )  # fmt: skip
    return dtype, use_recipe, recipe, line


def _knob_groups() -> tuple[dict[str, form.Form], list[Any]]:
    """Make the knobs of every method; only the chosen method's are shown."""
    forms, groups = {}, []
    for chosen in merge_methods.values():
        with gr.Column(visible=chosen.name == _FIRST, elem_classes="lab-knobs") as group, gr.Row():
            knobs = {name: info for name, info in chosen.parameters.items() if name != "weight"}
            forms[chosen.name] = form.make_form(knobs)
        groups.append(group)
    return forms, groups


def _bind_form(page: "_Merge", parts: _Parts, told: list[Any], count: Any, buttons: tuple[Any, Any]) -> None:
    """Let rows come and go, and check the form again whenever somebody changes it."""
    more, fewer = buttons
    more.click(page.more, [count], [count, *parts.rows], api_name="merge_more", show_progress="hidden")
    page.bind_checks(told, count, fewer)


class _Merge:
    """The page's handlers."""

    def __init__(self, services: Services, parts: _Parts) -> None:
        self.services = services
        self.parts = parts

    def bind_checks(self, told: list[Any], count: Any, fewer: Any) -> None:
        """Check the form after every change that a person makes and what follows from it."""
        parts, quiet = self.parts, {"show_progress": "hidden", "trigger_mode": "always_last"}
        shown = [parts.words, parts.stack, parts.base, parts.ranges, *parts.groups, *parts.rows]
        first = [parts.method, parts.models[0], parts.drop]
        rows = [count, *parts.rows, *parts.models]
        chosen = parts.method.input(self.choose, [*first, count], shown, api_name="merge_method", **quiet)
        stacked = gr.on(
            [parts.drop.input, parts.models[0].input],
            self.stack,
            first[1:],
            parts.ranges,
            api_name="merge_stack",
            **quiet,
        )
        fewer_rows = fewer.click(self.fewer, count, rows, api_name="merge_fewer", show_progress="hidden")
        typed = [
            form.edited(one) for one in parts.inputs if one not in (*first, parts.recipe, parts.use_recipe)
        ]
        written = told[-2]
        checked = [*parts.inputs, written]
        gr.on(typed, self.check, checked, told, api_name="merge_check", **quiet)
        switched = parts.use_recipe.input(
            self.leave_recipe,
            [parts.use_recipe, written],
            [parts.recipe],
            api_name="merge_use",
            **quiet,
        )
        pasted = parts.recipe.change(
            self.take_recipe,
            [parts.recipe, written, parts.use_recipe],
            [parts.use_recipe],
            api_name="merge_paste",
            **quiet,
        )
        for number, change in enumerate((chosen, stacked, fewer_rows, pasted, switched)):
            change.then(self.check, checked, told, api_name=f"merge_check_{number}", **quiet)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models and start with the two newest and their common parent."""
        rows = modelview.visible(self.services.store, self.services.who(request))
        names = modelview.names(rows)
        tuned = [row.name for row in rows if row.kind in ("adapter", "tuned")]
        first = ([*tuned[-2:], *names] if len(tuned) > 1 else names)[:2]
        base = next((row.name for row in rows if not row.parents), None)
        updates = [
            gr.Dropdown(choices=names, value=first[place] if place < len(first) else None)
            for place in range(MOST_INPUTS)
        ]
        start = gr.Dropdown(choices=[_NO_BASE, *names], value=base or _NO_BASE)
        return *updates, start, free_name("merged", names), only_changed((), names)[-1]

    def choices(self, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Offer models that came or went; what is chosen stays."""
        names = modelview.names(modelview.visible(self.services.store, self.services.who(request)))
        changed, digests = only_changed(seen, names)
        if changed is not names:
            return *(gr.skip() for _ in range(MOST_INPUTS + 1)), digests
        return (
            *(gr.Dropdown(choices=names) for _ in range(MOST_INPUTS)),
            gr.Dropdown(choices=[_NO_BASE, *names]),
            digests,
        )

    def more(self, count: int) -> tuple[Any, ...]:
        """Show one more row."""
        count = min(count + 1, MOST_INPUTS)
        return count, *(gr.Row(visible=place < count) for place in range(MOST_INPUTS))

    def fewer(self, count: int) -> tuple[Any, ...]:
        """Hide the last row and forget its model."""
        count = max(count - 1, 1)
        rows = [gr.Row(visible=place < count) for place in range(MOST_INPUTS)]
        return (
            count,
            *rows,
            *(gr.skip() if place < count else gr.Dropdown(value=None) for place in range(MOST_INPUTS)),
        )

    def choose(self, method: str, model: str | None, drop: float | None, count: int) -> tuple[Any, ...]:
        """Show the chosen method's sentence and knobs, and hide what it has no use for."""
        chosen = merge_methods[method]
        stacks = mergeform.stacks_layers(method)
        return (
            _method_words(method),
            gr.Column(visible=stacks),
            gr.Dropdown(visible=chosen.base != "none"),
            self.stack(model, drop),
            *(gr.Column(visible=name == method) for name in merge_methods),
            *(gr.Row(visible=place < (1 if stacks else count)) for place in range(MOST_INPUTS)),
        )

    def stack(self, model: str | None, drop: float | None) -> str:
        """Write the ranges of depth up-scaling for a model and its m."""
        return mergeform.solar_ranges(
            modelview.layers(model, self.services.store.models.list()), int(drop or 0)
        )

    def take_recipe(self, recipe: str, written: str, is_used: bool) -> Any:
        """Use the text in the box as soon as somebody changes what the form wrote there."""
        return gr.Checkbox(value=True) if recipe.strip() and recipe != written and not is_used else gr.skip()

    def leave_recipe(self, is_used: bool, written: str) -> Any:
        """Put the form's own text back when somebody returns to the form."""
        return gr.skip() if is_used else written

    def check(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Say what will come out, or what stands in the way, beside the field it concerns."""
        filled, who = self.read(given), self.services.who(request)
        try:
            spec = filled.spec()
            plan: Any = self.services.desk.check(spec, who.name)
        except (ValidationError, LabError) as error:
            problems = problems_of(error)
            alone = not filled.recipe and len(modelview.visible(self.services.store, who)) < 2
            return (
                _ALONE if alone else mergeform.problems_html(problems), gr.Column(visible=False), gr.skip(),
                *_lines(problems, is_recipe=bool(filled.recipe)), gr.skip(), gr.skip(),
                gr.Button(interactive=False),
            )  # fmt: skip
        before, stands = given[-1], given[_RECIPE_PLACE]
        written = gr.skip() if filled.recipe else write_recipe(spec)
        # What somebody is pasting over the form's text just now is theirs.
        recipe = written if stands in ("", before) and stands != written else gr.skip()
        return (
            mergeform.plan_html(plan), gr.Column(visible=True), mergeform.heat_map(plan),
            *_lines([], is_recipe=bool(filled.recipe)), recipe, written, gr.Button(interactive=True),
        )  # fmt: skip

    def start(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Queue the merge."""
        who = self.services.who(request)
        try:
            job = self.services.desk.submit(self.read(given).spec(), who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error)), gr.skip(), gr.skip()
        names = modelview.names(modelview.visible(self.services.store, who))
        return "", job.id, free_name("merged", [*names, *job.spec.get("name", "").split()])

    def result(self, name: str) -> str:
        """Return the buttons of a finished merge."""
        row = next((one for one in self.services.store.models.list() if one.name == name), None)
        return modelview.result_links(row) if row else ""

    def read(self, given: Sequence[Any]) -> mergeform.Filled:
        """Read the components' values, in the order of `_Parts.inputs`."""
        method, base, name, dtype, ranges, use_recipe, recipe, *rest = given
        models, weights, knobs = (
            rest[:MOST_INPUTS],
            rest[MOST_INPUTS : 2 * MOST_INPUTS],
            rest[2 * MOST_INPUTS :],
        )
        start = 0
        for other in merge_methods:
            length = len(self.parts.forms[other].inputs)
            if other == method:
                break
            start += length
        chosen = self.parts.forms[method]
        return mergeform.Filled(
            method=method,
            inputs=tuple((model, weight) for model, weight in zip(models, weights, strict=True) if model),
            base=None if base in (None, _NO_BASE) else base,
            name=(name or "").strip(),
            dtype=None if dtype == _KEEP else dtype,
            knobs=chosen.values(knobs[start : start + len(chosen.inputs)]),
            ranges=ranges or "",
            recipe=recipe if use_recipe else "",
        )


def _lines(problems: Sequence[Problem], *, is_recipe: bool) -> list[str]:
    """Return the problems of models, base, name and recipe, for the lines below them.

    While a recipe stands in for the form, everything but the name is the recipe's.
    """
    name = [one for one in problems if one.field == "name"]
    if is_recipe:
        rest = [Problem("", str(one)) for one in problems if one not in name]
        used = "" if rest else widgets.note("This recipe is used. Of the form, only the name counts.")
        return ["", "", widgets.problem_line(name), widgets.problem_line(rest) + used]
    fields = (("models", "slices"), ("base_model",))
    lines = [[one for one in problems if one.field.split(".")[0] in names] for names in fields]
    return [*(widgets.problem_line(line) for line in lines), widgets.problem_line(name), ""]


def _method_words(method: str) -> str:
    chosen = merge_methods[method]
    return (
        f'<p class="lab-muted lab-small" style="margin:0">{widgets.esc(chosen.use)}'
        f"<br>{widgets.esc(chosen.source)}</p>"
    )
