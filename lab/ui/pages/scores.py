"""The score section under the answers: choose sets, score the chosen models, watch the bars grow."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.store.rows import LIVE, DatasetRow, JobRow
from lab.score.metric import Metric, metrics
from lab.score.spec import ScoreSpec
from lab.score.tasks import LABELS, SHIPPED_CHOICES, SHIPPED_TEXT
from lab.ui import charts, jobview, widgets
from lab.ui.redraw import Part, Seen, only_changed, when_page_opens
from lab.ui.services import Services, Who

_NONE = "(none)"


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
        with gr.Row(equal_height=True, elem_classes="lab-bottom"):
            questions = gr.Dropdown(
                label="Multiple choice", choices=page.sets(SHIPPED_CHOICES), value=SHIPPED_CHOICES
            )
            texts = gr.Dropdown(label="Text", choices=page.sets(SHIPPED_TEXT), value=SHIPPED_TEXT)
            start = gr.Button("Score these models", variant="primary", elem_id="lab-score", min_width=170)
        problems = widgets.picture(elem_id="lab-score-problems")
    status = widgets.board(elem_id="lab-score-status")
    with gr.Row(elem_classes="lab-chart"):
        plots = [
            gr.Plot(
                show_label=False,
                container=False,
                min_width=300,
                elem_classes="lab-panel",
                elem_id=f"lab-chart-{name}",
                visible=False,
            )
            for name in metrics
        ]
    seen = gr.State(())
    inputs, drawn = [models, questions, texts, seen], [status, *plots, seen]
    when_page_opens(page.draw, inputs, drawn, "scores_open")
    models.change(page.draw, inputs, drawn, api_name="scores_models", show_progress="hidden")
    start.click(
        page.start, [models, questions, texts], [problems], api_name="score", show_progress="hidden"
    ).then(page.draw, inputs, drawn, api_name="score_started", show_progress="hidden")
    status.click(page.press, None, [problems], api_name="scores_press", show_progress="hidden")
    return Part(page.draw, inputs, drawn)


class _Scores:
    """The section's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def sets(self, shipped: str) -> list[tuple[str, str]]:
        """Return the choices of data to score on: the shipped set, what was uploaded, none."""
        rows: list[DatasetRow] = [
            row
            for row in self.services.store.datasets.list()
            if row.facts.get("format") == shipped.removeprefix("lab:")
        ]
        return [(LABELS[shipped], shipped), *((row.name, row.name) for row in rows), ("none", _NONE)]

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
        lines = charts.series(self.services.desk.follow(job.id, 0))
        return {name: points[-1][1] for name, points in lines.items() if points[-1][1] is not None}

    def _status(self, job: JobRow | None, chosen: Sequence[str]) -> str:
        if job is None:
            return widgets.note(
                "Score the chosen models to see accuracy and bits per byte, with their 95 % intervals."
            )
        if job.state != "succeeded":
            return jobview.live_card(job)
        told = [
            one for one in job.result.get("verdicts", ()) if one["model"] in chosen and one["base"] in chosen
        ]
        return "".join(_verdict(one, chosen) for one in told)

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


def _verdict(told: Mapping[str, Any], chosen: Sequence[str]) -> str:
    place = chosen.index(told["model"])
    return (
        f'<div class="lab-note lab-verdict">{widgets.letter(place)}'
        f"<span>{widgets.esc(told['sentence'])}</span></div>"
    )
