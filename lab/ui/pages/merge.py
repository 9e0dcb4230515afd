"""The Merge page: models and a method on the left, what will come out on the right, the result in place."""

import uuid
from collections.abc import Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, Problem, problems_of
from lab.core.spec import free_name
from lab.merge.recipe import write_recipe
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec
from lab.ui import form, mergeform, mergetexts, modelview, widgets
from lab.ui.carryform import CarryForm
from lab.ui.mergelayout import ADAPTER, KEEP, MOST_INPUTS, Parts, lay_out_form, method_words
from lab.ui.offers import Offer, offered
from lab.ui.pages import mergesearch
from lab.ui.pages.mergeinsight import build_panel as build_insight
from lab.ui.pages.outcome import build_panel as build_after
from lab.ui.pages.outcome import model_made
from lab.ui.pages.running import Running
from lab.ui.redraw import Part, every, only_changed, when_page_opens
from lab.ui.services import Services

_NO_BASE = "(none)"
_ALONE = widgets.empty_state(
    "A merge takes two models",
    "Fine-tune the one that is here, then merge the result with it. Or stack its layers with passthrough.",
    '<a class="lab-button lab-primary" href="?view=finetune" data-view="finetune">Fine-tune a model</a>',
)


def build(services: Services) -> None:
    """Lay out the page and bind it to the merge room's spec and check."""
    widgets.picture(widgets.head("Merge", "Make one model out of two to eight, without training."))
    job, seen, count, choices = gr.State(""), gr.State(()), gr.State(2), gr.State(())
    with gr.Row(elem_classes="lab-split", equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="lab-panel"):
            parts, lines, buttons = lay_out_form()
            carry = CarryForm(services)
        with gr.Column(scale=8, min_width=320):
            with gr.Column(elem_classes="lab-panel"):
                widgets.picture('<h2 class="lab-h2">What will come out</h2>')
                outcome = widgets.picture(elem_id="lab-merge-plan")
                start = gr.Button("Merge", variant="primary", elem_id="lab-merge-start")
                problems = widgets.picture(elem_id="lab-merge-problems")
            running = widgets.board(elem_id="lab-merge-running")
            after = build_after(services, job, model_made(services), "lab-after")
            with gr.Column(elem_classes="lab-panel lab-chart", visible=False) as heat:
                widgets.picture('<h2 class="lab-h2">What each layer gets</h2>')
                # Any value: a check that is under way still has what could be drawn of the method before.
                drawn = gr.Dropdown(
                    label="Drawn", choices=["weight"], value="weight", allow_custom_value=True,
                    elem_id="lab-merge-drawn",
                )  # fmt: skip
                chart = gr.Plot(show_label=False, container=False, elem_id="lab-merge-heat")
            searching = mergesearch.lay_out(services)
            page = _Merge(services, parts)
            insight = build_insight(services, page.read, parts)
    name = Offer(parts.name)
    told = [outcome, heat, chart, drawn, *lines[:-1], parts.keep, page.recipe.component, gr.State(""), start]
    _bind_form(page, parts, told, count, buttons)
    live = page.live
    opened = when_page_opens(
        page.open, None, [*parts.models, parts.base, name.component, choices], "merge_open"
    )
    page.recipe.after(
        name.after(opened).then(
            page.check,
            [*parts.inputs, drawn, told[-2]],
            told,
            api_name="merge_check_first",
            show_progress="hidden",
        )
    )
    when_page_opens(live.open, None, [job, running, seen], "merge_running_open")
    carry.bind(job, live.draw, [running, seen])
    timer = gr.Timer(1)
    models = Part(page.choices, [choices], [*parts.models, parts.base, choices])
    search = mergesearch.bind(searching, page.read, parts.inputs, [job, problems])
    drawn_parts = [models, insight, after, Part(live.draw, [job, seen], [running, seen]), *search]
    every(timer, drawn_parts, "merge_tick")
    queued = start.click(
        page.start, [*parts.inputs, seen], [problems, job, name.component, running, seen],
        api_name="merge", show_progress="minimal",
    )  # fmt: skip
    name.after(queued)
    running.click(
        live.press,
        [job, seen],
        [job, problems, running, seen],
        api_name="merge_press",
        show_progress="hidden",
    )


def _bind_form(page: "_Merge", parts: Parts, told: list[Any], count: Any, buttons: tuple[Any, Any]) -> None:
    """Let rows come and go, and check the form again whenever somebody changes it."""
    more, fewer = buttons
    more.click(page.more, [count], [count, *parts.rows], api_name="merge_more", show_progress="hidden")
    page.bind_checks(told, count, fewer)
    gr.on(
        [one.change for one in parts.models], page.offer_adapter, parts.models, parts.of_adapters,
        api_name="merge_of_adapters", show_progress="hidden", trigger_mode="always_last",
    )  # fmt: skip
    parts.result.input(
        page.ask_rank, parts.result, parts.rank, api_name="merge_result", show_progress="hidden"
    )


class _Merge:
    """The page's handlers."""

    def __init__(self, services: Services, parts: Parts) -> None:
        self.services = services
        self.parts = parts
        self.recipe = Offer(parts.recipe)
        self.live = Running(services, ("merge", "moe"), "job_merge", self.result)

    def bind_checks(self, told: list[Any], count: Any, fewer: Any) -> None:
        """Check the form after every change that a person makes and what follows from it."""
        parts, quiet = self.parts, {"show_progress": "hidden", "trigger_mode": "always_last"}
        shown = [
            parts.words, parts.stack, parts.base, parts.data, parts.ranges, *parts.knobs.shown, *parts.rows,
        ]  # fmt: skip
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
        drawn, written = told[3], told[-2]
        checked = [*parts.inputs, drawn, written]
        self.recipe.after(
            gr.on([*typed, drawn.input], self.check, checked, told, api_name="merge_check", **quiet)
        )
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
            self.recipe.after(
                change.then(self.check, checked, told, api_name=f"merge_check_{number}", **quiet)
            )

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models and start with the two newest and their common parent."""
        rows = modelview.visible(self.services.store, self.services.who(request))
        names = modelview.names(rows)
        tuned = [row.name for row in rows if row.kind in ("adapter", "tuned")]
        first = ([*tuned[-2:], *names] if len(tuned) > 1 else names)[:2]
        base = next((row.name for row in rows if not row.parents), None)
        updates = [
            gr.Dropdown(choices=names, value=first[place])
            if place < len(first)
            else gr.Dropdown(choices=names)
            for place in range(MOST_INPUTS)
        ]
        start = gr.Dropdown(choices=[_NO_BASE, *names], value=base or _NO_BASE)
        return *updates, start, offered(free_name("merged", names)), only_changed((), names)[-1]

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

    def choose(
        self, method: str, model: str | None, drop: float | None, count: int, request: gr.Request
    ) -> tuple[Any, ...]:
        """Show the chosen method's sentence and knobs, and hide what it has no use for."""
        chosen = merge_methods[method]
        stacks = mergeform.stacks_layers(method)
        return (
            method_words(method),
            gr.Column(visible=stacks),
            gr.Dropdown(visible=chosen.base != "none"),
            gr.Dropdown(
                visible=chosen.reads_text,
                choices=mergetexts.choices(self.services.store, self.services.who(request)),
            ),
            self.stack(model, drop),
            *self.parts.knobs.choose(method),
            *(gr.Row(visible=place < (1 if stacks else count)) for place in range(MOST_INPUTS)),
        )

    def offer_adapter(self, request: gr.Request, *models: str | None) -> Any:
        """Ask what comes out where all chosen models are adapters of one base."""
        rows = modelview.visible(self.services.store, self.services.who(request))
        return gr.Column(visible=bool(modelview.base_of_adapters(rows, models)))

    def ask_rank(self, result: str) -> Any:
        """Ask for the rank only of an adapter."""
        return gr.Number(visible=result == ADAPTER)

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
        filled, who, notes = self.read(given), self.services.who(request), list[str]()
        try:
            spec = filled.spec(notes.append)
            plan: Any = self.services.desk.check(spec, who.name)
        except (ValidationError, LabError) as error:
            problems = problems_of(error)
            alone = not filled.recipe and len(modelview.visible(self.services.store, who)) < 2
            return (
                _ALONE if alone else mergeform.problems_html(problems), gr.Column(visible=False),
                gr.skip(), gr.skip(),
                *_lines(problems, is_recipe=bool(filled.recipe)), gr.skip(), None, gr.skip(),
                gr.Button(interactive=False),
            )  # fmt: skip
        picture, names, what = mergeform.heat_map(plan, given[-2])
        written = write_recipe(spec) if isinstance(spec, MergeSpec) and not filled.recipe else gr.skip()
        # What somebody is pasting over the form's text just now is theirs.
        recipe = offered(None if filled.recipe else written, given[-1])
        return (
            mergeform.plan_html(plan), gr.Column(visible=bool(names)), picture,
            gr.Dropdown(choices=names, value=what, visible=len(names) > 1),
            *_lines([], is_recipe=bool(filled.recipe), notes=notes),
            gr.Checkbox(visible=mergeform.makes_steps(plan)), recipe, written, gr.Button(interactive=True),
        )  # fmt: skip

    def start(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Queue the merge and show it."""
        who = self.services.who(request)
        try:
            job = self.services.desk.submit(self.read(given).spec(), who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error)), gr.skip(), None, gr.skip(), gr.skip()
        used = job.spec.get("name", "")
        names = modelview.names(modelview.visible(self.services.store, who))
        card = self.live.draw(job.id, given[-1], request)
        return "", job.id, offered(free_name("merged", [*names, *used.split()]), used), *card

    def result(self, name: str) -> str:
        """Return the buttons of a finished merge."""
        row = next((one for one in self.services.store.models.list() if one.name == name), None)
        return modelview.result_links(row) if row else ""

    def read(self, given: Sequence[Any]) -> mergeform.Filled:
        """Read the components' values, in the order of `Parts.inputs`."""
        method, base, name, dtype, ranges, use_recipe, recipe, *rest = given
        (keep, result, rank, tokenizer, data), rest = rest[:5], rest[5:]
        models, weights, knobs = (
            rest[:MOST_INPUTS],
            rest[MOST_INPUTS : 2 * MOST_INPUTS],
            rest[2 * MOST_INPUTS :],
        )
        is_offered = modelview.base_of_adapters(self.services.store.models.list(), models)
        settings = self.parts.knobs.values(method, knobs)
        reads = merge_methods[method].reads_text
        named = [model for model in models if model]
        return mergeform.Filled(
            method=method,
            inputs=tuple((model, weight) for model, weight in zip(models, weights, strict=True) if model),
            base=None if base in (None, _NO_BASE) else base,
            name=(name or "").strip(),
            dtype=None if dtype == KEEP else dtype,
            seed=settings.pop("seed", 0),
            knobs=settings,
            ranges=ranges or "",
            recipe=recipe if use_recipe else "",
            keeps_steps=bool(keep),
            is_adapter=result == ADAPTER and bool(is_offered),
            rank=rank or None,
            tokenizer=tokenizer or None,
            data=mergetexts.data_for(named, data, self.services.store.models.list()) if reads else {},
        )


def _lines(problems: Sequence[Problem], *, is_recipe: bool, notes: Sequence[str] = ()) -> list[str]:
    """Return the problems of models, base, name and recipe, for the lines below them.

    While a recipe stands in for the form, everything but the name is the recipe's; `notes` say what
    of it has no effect.
    """
    name = [one for one in problems if one.field == "name"]
    if is_recipe:
        rest = [Problem("", str(one)) for one in problems if one not in name]
        used = "" if rest else widgets.note("This recipe is used. Of the form, only the name counts.")
        used += "".join(widgets.note(words) for words in notes)
        return ["", "", widgets.problem_line(name), widgets.problem_line(rest) + used]
    fields = (("models", "slices"), ("base_model",))
    lines = [[one for one in problems if one.field.split(".")[0] in names] for names in fields]
    return [*(widgets.problem_line(line) for line in lines), widgets.problem_line(name), ""]
