"""The score section under the answers: choose sets, score the chosen models, watch the bars grow."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.spec import free_name
from lab.core.store.rows import LIVE, JobRow
from lab.score.keeping import keep_file
from lab.score.metric import Metric, Reads, metrics
from lab.score.spec import ScoreSpec
from lab.score.tasks import LABELS, SHIPPED_CHOICES, SHIPPED_TEXT
from lab.ui import charts, jobview, modelview, widgets
from lab.ui.redraw import Part, Seen, only_changed, when_page_opens
from lab.ui.services import Services, Who
from lab.ui.tailing import Curves
from lab.ui.waiting import waiting_words

_NONE = "(none)"
_SHIPPED: Mapping[Reads, str] = {"choices": SHIPPED_CHOICES, "text": SHIPPED_TEXT}


def build_section(services: Services, models: Any) -> Part:
    """Lay out the section below the answers.

    Args:
        services: the store and the desk.
        models: the component that holds the chosen models' names.

    Returns:
        What the page draws again at every tick.
    """
    page = _Scores(services)
    widgets.picture('<h2 class="lab-h2">Scores</h2>')
    with gr.Column(elem_classes="lab-panel"):
        questions, more_questions, texts, more_texts, start = _lay_out_sets()
        problems = widgets.picture(elem_id="lab-score-problems")
    status = widgets.board(elem_id="lab-score-status")
    with gr.Row(elem_classes="lab-chart"):
        plots = [_plot(name) for name in metrics]
    seen = gr.State(())
    inputs, drawn = [models, questions, texts, seen], [status, *plots, seen]
    quiet = {"show_progress": "hidden"}
    when_page_opens(page.open, inputs, [questions, texts, *drawn], "scores_open")
    gr.on([one.change for one in inputs[:3]], page.draw, inputs, drawn, api_name="scores_choose", **quiet)
    more_questions.upload(
        page.keep_questions, more_questions, [questions, problems], api_name="score_questions"
    )
    more_texts.upload(page.keep_texts, more_texts, [texts, problems], api_name="score_texts")
    start.click(page.start, inputs[:3], [problems], api_name="score", **quiet).then(
        page.draw, inputs, drawn, api_name="score_started", **quiet
    )
    status.click(page.press, None, [problems], api_name="scores_press", **quiet)
    return Part(page.draw, inputs, drawn)


def _lay_out_sets() -> tuple[Any, Any, Any, Any, Any]:
    with gr.Row(equal_height=True, elem_classes="lab-bottom"):
        questions = _set_choice("choices", "Multiple choice", "lab-score-questions")
        more_questions = gr.UploadButton(
            "Upload", file_types=[".jsonl"], size="md", min_width=80, elem_id="lab-score-questions-file"
        )
        texts = _set_choice("text", "Text", "lab-score-texts")
        more_texts = gr.UploadButton(
            "Upload", file_types=[".jsonl"], size="md", min_width=80, elem_id="lab-score-texts-file"
        )
        start = gr.Button("Score these models", variant="primary", elem_id="lab-score", min_width=170)
    return questions, more_questions, texts, more_texts, start


def _set_choice(reads: Reads, label: str, elem_id: str) -> Any:
    shipped = _SHIPPED[reads]
    return gr.Dropdown(
        label=label, choices=[(LABELS[shipped], shipped)], value=shipped, elem_id=elem_id, scale=3
    )


def _plot(name: str) -> Any:
    return gr.Plot(
        show_label=False, container=False, min_width=300, elem_classes="lab-panel",
        elem_id=f"lab-chart-{name}", visible=False,
    )  # fmt: skip


class _Scores:
    """The section's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.curves = Curves(services.desk)

    def open(
        self, models: list[str], questions: str, texts: str, seen: Seen, request: gr.Request
    ) -> tuple[Any, ...]:
        """Offer the sets and draw what is known; what is chosen stays, also by somebody who was quicker."""
        who = self.services.who(request)
        offers = self._offer("choices", who), self._offer("text", who)
        return *offers, *self.draw(models, questions, texts, seen, request)

    def keep_questions(self, path: str, request: gr.Request) -> tuple[Any, str]:
        """Keep an uploaded multiple-choice file and choose it."""
        return self._keep(path, "choices", self.services.who(request))

    def keep_texts(self, path: str, request: gr.Request) -> tuple[Any, str]:
        """Keep an uploaded text file and choose it."""
        return self._keep(path, "text", self.services.who(request))

    def start(self, models: list[str], questions: str, texts: str, request: gr.Request) -> str:
        """Submit a score job for the chosen models."""
        try:
            spec = ScoreSpec(
                models=tuple(models or ()),
                multiple_choice=None if questions == _NONE else questions,
                text=None if texts == _NONE else texts,
            )
            self.services.desk.submit(spec, self.services.who(request).name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error))
        return ""

    def press(self, event: gr.EventData, request: gr.Request) -> str:
        """Cancel the running score job."""
        verb, about = widgets.pressed(event)
        verbs = {
            "cancel": self.services.desk.cancel,
            "stop": self.services.desk.stop,
            "retry": self.services.desk.retry,
        }
        try:
            verbs[verb](about, self.services.who(request).name)
        except LabError as error:
            return widgets.problem_list(problems_of(error))
        return ""

    def draw(
        self, models: list[str], questions: str, texts: str, seen: Seen, request: gr.Request
    ) -> tuple[Any, ...]:
        """Draw status, verdicts and bars of the chosen models; while a job runs, its bars grow."""
        chosen = list(models or ())
        job = self._newest(chosen, self.services.who(request))
        live = self._live_figures(job)
        data = {"choices": questions, "text": texts}
        figures = [self._chart(metric, data[metric.reads], chosen, live) for metric in metrics.values()]
        status, *plots, digests = only_changed(seen, self._status(job, chosen), *figures)
        changed = [
            gr.Plot(value=new, visible=new is not None) if new is old else gr.skip()
            for new, old in zip(plots, figures, strict=True)
        ]
        return status, *changed, digests

    def _keep(self, path: str, reads: Reads, who: Who) -> tuple[Any, str]:
        store, file = self.services.store, Path(path)
        name = free_name(modelview.name_of(file.stem), [row.name for row in store.datasets.list()])
        try:
            folder, keep = self.services.settings.datasets, self.services.catalog.keep_dataset
            row = keep_file(file, name, reads, who.name, store, folder, keep)
        except LabError as error:
            return gr.skip(), widgets.problem_list(problems_of(error))
        return self._offer(reads, who, value=row.name), ""

    def _offer(self, reads: Reads, who: Who, **chosen: str) -> Any:
        """Return the choice of sets of one kind: the shipped one, what this person may see, none."""
        shipped = _SHIPPED[reads]
        rows = [row for row in self.services.store.datasets.list() if row.facts.get("format") == reads]
        mine = [(row.name, row.name) for row in rows if not who.is_visitor or row.owner == who.name]
        return gr.Dropdown(choices=[(LABELS[shipped], shipped), *mine, ("none", _NONE)], **chosen)

    def _newest(self, chosen: Sequence[str], who: Who) -> JobRow | None:
        """Return the newest score job of this person over any of the chosen models."""
        jobs = self.services.store.jobs.list(owner=who.name, kinds=["score"], limit=20)
        return next(
            (
                job
                for job in jobs
                if job.state != "cancelled" and set(chosen) & set(job.spec.get("models", ()))
            ),
            None,
        )

    def _live_figures(self, job: JobRow | None) -> Mapping[str, float]:
        if job is None or job.state not in LIVE:
            return {}
        lines = self.curves.of(job)
        return {name: points[-1][1] for name, points in lines.items() if points[-1][1] is not None}

    def _status(self, job: JobRow | None, chosen: Sequence[str]) -> str:
        if job is None:
            return widgets.note(
                "Score the chosen models to see accuracy and bits per byte, with their 95 % intervals."
            )
        if job.state != "succeeded":
            return jobview.live_card(job, waits=waiting_words(self.services, [job]).get(job.id, ""))
        told = [
            one for one in job.result.get("verdicts", ()) if one["model"] in chosen and one["base"] in chosen
        ]
        return "".join(
            _verdicts(metric.label, [one for one in told if one["metric"] == metric.name], chosen)
            for metric in metrics.values()
        )

    def _chart(self, metric: Metric, data: str, chosen: Sequence[str], live: Mapping[str, float]) -> Any:
        rows = self.services.store.scores.of(chosen) if chosen else []
        stored = charts.bars_of(rows, chosen, metric.name, data)
        growing = [
            charts.Bar(place, name, live[f"{name}/{metric.name}"])
            for place, name in enumerate(chosen)
            if f"{name}/{metric.name}" in live
        ]
        kept = [bar for bar in stored if bar.place not in {one.place for one in growing}]
        bars = [*kept, *growing]
        if not bars:
            return None
        return charts.score_chart(
            bars, metric.label, higher_is_better=metric.higher_is_better, as_percent=metric.reads == "choices"
        )


def _verdicts(label: str, told: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> str:
    """Draw what one metric says of every model against the first."""
    if not told:
        return ""
    lines = "".join(
        f"<p>{widgets.letter(chosen.index(one['model']))}<span>{widgets.esc(one['sentence'])}</span></p>"
        for one in told
    )
    return f'<section class="lab-note lab-verdicts"><h3>{widgets.esc(label)}</h3>{lines}</section>'
