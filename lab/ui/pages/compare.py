"""The Compare page: one question, two to four models, their answers side by side as they are written."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.compare.spec import CompareSpec, Turn
from lab.core.errors import LabError, Problem, problems_of
from lab.core.store.rows import JobRow
from lab.merge.spec import MergeSpec
from lab.ui import form, modelview, widgets
from lab.ui.liverecipes import heads, without_paths
from lab.ui.pages import scores
from lab.ui.pages.livemerge import LiveMerge
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services, Who
from lab.ui.tailing import Ear, catch_up, tail
from lab.ui.transcript import Head, Transcript, columns_html, empty_columns
from lab.ui.words import listed

_SHOWN = ("temperature", "seed", "max_new_tokens")
_FOLDED = ("top_p", "top_k", "repetition_penalty")
_EMPTY = widgets.empty_state(
    "Ask two to four models the same question",
    "Choose models above and ask below. Every answer streams at its own pace, with its speed beside it.",
)


def build(services: Services) -> None:
    """Lay out the page and bind it to the desk and the store."""
    page = _Compare(services)
    widgets.picture(widgets.head("Compare", "One question, every model's answer side by side."))
    with gr.Column(elem_classes="lab-panel"):
        with gr.Row(elem_classes="lab-split"):
            with gr.Column(scale=3, min_width=260):
                models = gr.Dropdown(
                    label="Models (2 to 4)", multiselect=True, max_choices=4, elem_id="lab-compare-models"
                )
            shown = _sampling(services, _SHOWN)
        with gr.Accordion("More sampling", open=False, elem_classes="lab-accordion"):
            with gr.Row():
                folded = _sampling(services, _FOLDED)
            system = gr.Textbox(
                label="System prompt", lines=2, max_lines=6, info="Instructions before everything"
            )
        page.live = live = LiveMerge(services)
    answers = widgets.picture(elem_id="lab-answers")
    with gr.Row(elem_classes="lab-panel lab-ask", elem_id="lab-ask", equal_height=True):
        question = gr.Textbox(
            show_label=False, container=False, placeholder="Ask something (Ctrl+Enter sends)",
            lines=2, max_lines=8,
            scale=8, elem_id="lab-question", label="Question",
        )  # fmt: skip
        with gr.Column(scale=1, min_width=150):
            ask = gr.Button("Ask", variant="primary", elem_id="lab-ask-button")
            stop = gr.Button("Stop", visible=False, variant="stop", elem_id="lab-stop")
            fresh = gr.Button("New conversation", size="sm", visible=False, elem_id="lab-fresh")
    problems = widgets.picture(elem_id="lab-compare-problems")
    run, seen = gr.State(""), gr.State(())
    sampling = form.Form((*shown.controls, *folded.controls))
    page.sampling = sampling
    told = [answers, run, question, problems, *sampling.lines, ask, stop, fresh]
    when_page_opens(page.open, None, [models, answers, seen], "compare_open")
    resumed = when_page_opens(page.resume, None, told, "compare_resume", tails=True)
    live.bind()
    timer = gr.Timer(1.5)
    given = [models, system, question, run, *sampling.inputs, *live.inputs]
    asked = ask.click(
        page.ask, given, told, api_name="compare",
        show_progress="hidden", concurrency_limit=None, concurrency_id="tail",
    )  # fmt: skip
    stop.click(page.stop, [run], [problems], api_name="compare_stop", show_progress="hidden")
    fresh.click(page.start_over, [models], told, api_name="compare_new", show_progress="hidden")
    live.bind_asking(page.ask_again, run, given, told, [asked, resumed])
    gr.on(
        [models.input, live.fields.is_on.input],
        page.preview,
        [models, run, *live.inputs],
        [answers, run, problems, fresh],
        api_name="compare_choose",
        show_progress="hidden",
    )
    section = scores.build_section(services, models)
    every(timer, [Part(page.choices, [seen], [models, answers, seen]), section, *live.parts], "compare_tick")


def _sampling(services: Services, names: Sequence[str]) -> form.Form:
    fields = services.fields(CompareSpec)
    return form.make_form({name: fields[name] for name in names})


class _Compare:
    """The page's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.ear = Ear(services.desk)
        self.sampling = form.Form(())
        self.live: LiveMerge

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models, choose two, and draw empty columns."""
        who = self.services.who(request)
        names = self._names(who)
        run = self._linked(request)
        linked = [one for one in request.query_params.get("models", "").split(",") if one in names]
        chosen = list(run.spec["models"]) if run else (linked or [*names[:1], *names[1:][-3:]])[:4]
        _, seen = only_changed((), names)
        columns = gr.skip() if run else self._empty(chosen, who)
        return gr.Dropdown(choices=names, value=[one for one in chosen if one in names]), columns, seen

    def choices(self, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Offer models that came or went; what is chosen stays, and the first one is chosen when it comes."""
        who = self.services.who(request)
        names = self._names(who)
        changed, digests = only_changed(seen, names)
        if changed is not names:
            return gr.skip(), gr.skip(), digests
        if names and seen == only_changed((), [])[-1]:
            return gr.Dropdown(choices=names, value=names[:1]), self._empty(names[:1], who), digests
        return gr.Dropdown(choices=names), gr.skip(), digests

    def preview(self, chosen: list[str], run: str, request: gr.Request, *live: Any) -> tuple[Any, ...]:
        """Draw empty columns for another choice of models: it begins a new conversation.

        Answers that are still being written stay and go on; the choice holds for the next question.
        """
        who = self.services.who(request)
        job = self._find(run, who)
        if job is None or job.is_terminal:
            return self._empty(chosen, who, is_live=live[0]), "", "", gr.Button(visible=False)
        before = [name for name in job.spec["models"] if name not in _recipe_names(job)]
        is_other = before != list(chosen or ()) and bool(chosen)
        words = f"These answers go on. Your next question goes to {listed(chosen)}." if is_other else ""
        return gr.skip(), gr.skip(), widgets.note(words) if words else "", gr.skip()

    def start_over(self, chosen: list[str], request: gr.Request) -> tuple[Any, ...]:
        """Forget the conversation and wait for a first question."""
        return self._told(self._empty(chosen, self.services.who(request)), "", "", [], is_live=False)

    def stop(self, run: str, request: gr.Request) -> str:
        """Keep what was written and end the answers."""
        try:
            self.services.desk.stop(run, self.services.who(request).name)
        except LabError as error:
            return widgets.problem_list(problems_of(error))
        return ""

    async def ask(
        self, models: list[str], system: str, question: str, run: str, request: gr.Request, *rest: Any
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Submit a question, then follow the answers until they end."""
        who = self.services.who(request)
        try:
            job = await asyncio.to_thread(self._submit, models, system, question, run, rest, who)
        except (ValidationError, LabError) as error:
            problems = without_paths(problems_of(error))
            yield self._told(gr.skip(), gr.skip(), gr.skip(), problems, is_live=False)
            return
        html = columns_html(job.id, job.spec, Transcript.of(job.spec), self._heads(job, who))
        yield self._told(html, job.id, gr.skip(), [], is_live=True)
        async for update in self._tail(job, who, is_told=True):
            yield update

    async def ask_again(
        self, wish: bool, models: list[str], system: str, question: str, run: str,
        request: gr.Request, *rest: Any,
    ) -> AsyncIterator[tuple[Any, ...]]:  # fmt: skip
        """Ask what was asked last, or what stands in the box, now that the live merge is another."""
        job = self._find(run, self.services.who(request))
        question = question.strip() or (str(job.spec["prompt"]) if job else "")
        if not wish or not question:
            yield tuple(gr.skip() for _ in range(7 + len(self.sampling.lines)))
            return
        async for update in self.ask(models, system, question, "", request, *rest):
            yield update

    async def resume(self, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Show the run that the address names, from its first word, and follow it to its end."""
        job = await asyncio.to_thread(self._linked, request)
        if job is None:
            yield tuple(gr.skip() for _ in range(7 + len(self.sampling.lines)))
            return
        async for update in self._tail(job, self.services.who(request)):
            yield update

    def _submit(
        self, models: list[str], system: str, question: str, run: str, rest: Sequence[Any], who: Who
    ) -> JobRow:
        sampling = len(self.sampling.inputs)
        recipe = self.live.recipe(rest[sampling:], who)
        columns = [*(models or ()), *([recipe.name] if recipe else [])]
        recipes = (recipe,) if recipe else ()
        spec = CompareSpec(
            models=tuple(columns),
            recipes=recipes,
            prompt=question or "",
            system=system or "",
            earlier=self._earlier(run, columns, recipes, who),
            **self.sampling.values(rest[:sampling]),
        )
        return self.services.desk.submit(spec, who.name, uuid.uuid4().hex)

    def _earlier(
        self, run: str, models: list[str], recipes: Sequence[MergeSpec], who: Who
    ) -> tuple[Turn, ...]:
        """Return the conversation so far, where the same models and recipes go on with it."""
        if not run:
            return ()
        job = self.services.desk.own(run, who.name)
        stored = [MergeSpec.model_validate(one) for one in job.spec.get("recipes", ())]
        if list(job.spec["models"]) != list(models) or stored != list(recipes):
            return ()
        answers = self._transcript(job).answers
        before = tuple(Turn(**turn) for turn in job.spec["earlier"])
        return (*before, Turn(prompt=job.spec["prompt"], answers=answers))

    async def _tail(self, job: JobRow, who: Who, *, is_told: bool = False) -> AsyncIterator[tuple[Any, ...]]:
        """Yield what the job has said, all columns in one update, until it ends.

        Whatever but the answers is sent with the first update and with the last.
        """
        over = self._heads(job, who)
        transcript = Transcript.of(job.spec)
        asked = time.monotonic() - max(
            await asyncio.to_thread(self.services.store.database.time) - job.created, 0
        )
        async for now in tail(self.ear, job, transcript):
            html = columns_html(now.id, now.spec, transcript, over, time.monotonic() - asked)
            told = self._told(html, now.id, gr.skip(), _faults(now), is_live=not now.is_terminal)
            if is_told and now.is_terminal:
                # Only the first update clears earlier problems: what was said meanwhile stays.
                told = told if _faults(now) else self._without_problems(told)
            elif is_told:
                told = html, *(gr.skip() for _ in told[1:])
            yield told
            is_told = True

    def _heads(self, job: JobRow, who: Who) -> list[Head]:
        return heads(modelview.visible(self.services.store, who), job.spec)

    def _told(
        self, html: Any, run: Any, question: Any, problems: list[Problem], *, is_live: bool
    ) -> tuple[Any, ...]:
        lines = self.sampling.problems(problems)
        rest = widgets.problem_list(self.sampling.rest(problems))
        has_answers = isinstance(run, str) and bool(run)
        return (
            html, run, question, rest, *lines,
            gr.Button(interactive=not is_live), gr.Button(visible=is_live),
            gr.Button(visible=has_answers and not is_live),
        )  # fmt: skip

    def _without_problems(self, told: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = 4 + len(self.sampling.lines)
        return *told[:3], *(gr.skip() for _ in told[3:kept]), *told[kept:]

    def _transcript(self, job: JobRow) -> Transcript:
        transcript = Transcript.of(job.spec)
        catch_up(self.services.desk, job, transcript)
        return transcript

    def _linked(self, request: gr.Request) -> JobRow | None:
        return self._find(request.query_params.get("run", ""), self.services.who(request))

    def _find(self, wanted: str, who: Who) -> JobRow | None:
        try:
            job = self.services.desk.own(wanted, who.name) if wanted else None
        except LabError:
            return None
        return job if job is not None and job.kind == "compare" else None

    def _names(self, who: Who) -> list[str]:
        return modelview.names(modelview.visible(self.services.store, who))

    def _empty(self, chosen: list[str], who: Who, *, is_live: bool = False) -> str:
        over = modelview.heads(modelview.visible(self.services.store, who), chosen or ())
        over += [Head("live", "merged when you ask")] if is_live else []
        return empty_columns(over, "The answer will be written here.") if over else _EMPTY


def _recipe_names(job: JobRow) -> set[str]:
    return {recipe["name"] for recipe in job.spec.get("recipes", ())}


def _faults(job: JobRow) -> list[Problem]:
    if job.state != "failed":
        return []
    return [
        Problem("", job.error_text or "The comparison failed without saying why. What was written is kept.")
    ]
