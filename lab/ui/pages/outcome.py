"""What came of a merge: on the Merge page below the finished one, on the Models page below a merge's card.

Everything shown is found again from the model's name: the job that made it, the look at what it changed,
and the scores of it and its parents on the bundled texts. So a reload shows the same, and so do two pages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.store.rows import JobRow, ModelRow
from lab.merge.inspect.spec import MOST_MODELS, InspectSpec
from lab.score.blame import Blame, blame
from lab.score.spec import ScoreSpec
from lab.score.tasks import SHIPPED_TEXT
from lab.ui import insight, jobview, kinshipview, modelview, outcomeview, widgets
from lab.ui.pages import kinmaps
from lab.ui.redraw import Part
from lab.ui.services import Services, Who
from lab.ui.waiting import waiting_words

Named = Callable[[str], str]
"""Gives the model's name for what a page remembers: of a job the model that it made, of a model itself."""

_MOST_SCORED = 7
_UPDATES = 9
"""Panel, board, six of the maps, and what was seen."""


@dataclass(frozen=True)
class _Asked:
    """A merge, and the jobs that have asked about it."""

    row: ModelRow
    made_by: JobRow | None
    look: JobRow | None
    score: JobRow | None


def build_panel(services: Services, remembered: Any, named: Named, prefix: str) -> Part:
    """Lay out the panel, hidden until the page has a merge to show.

    Args:
        services: the store and the desk.
        remembered: the state that the page keeps: a job's id or a model's name.
        named: makes a model's name of it; "" where there is none.
        prefix: begins the components' ids.

    Returns:
        What the page draws again at every tick.
    """
    page = _Outcome(services, named)
    with gr.Column(elem_classes="lab-panel", visible=False) as panel:
        widgets.picture('<h2 class="lab-h2">What the merge did</h2>')
        board = widgets.board(elem_id=prefix)
        problems = widgets.picture()
        maps = kinmaps.lay_out(prefix)
    seen = gr.State(())
    inputs = [remembered, maps.view, maps.cell, seen]
    outputs = [panel, board, *maps.outputs, seen]
    name, quiet = prefix.removeprefix("lab-").replace("-", "_"), {"show_progress": "hidden"}
    pressed = board.click(page.press, [remembered], [problems], api_name=f"{name}_press", **quiet)
    pressed.then(page.draw, inputs, outputs, api_name=f"{name}_pressed", **quiet)
    remembered.change(page.draw, inputs, outputs, api_name=f"{name}_chosen", **quiet)
    maps.view.input(page.draw, inputs, outputs, api_name=f"{name}_view", **quiet)
    clicked = maps.board.click(kinmaps.clicked, None, [maps.cell], api_name=f"{name}_cell", **quiet)
    clicked.then(page.draw, inputs, outputs, api_name=f"{name}_clicked", **quiet)
    return Part(page.draw, inputs, outputs)


def model_made(services: Services) -> Named:
    """Return what finds the merge that a job has made and published."""

    def named(job_id: str) -> str:
        made = (row.name for row in services.store.models.list() if job_id and row.job_id == job_id)
        return next(made, "")

    return named


class _Outcome:
    """The panel's handlers."""

    def __init__(self, services: Services, named: Named) -> None:
        self.services = services
        self.named = named
        self.reports = kinmaps.Reports(services.desk)

    def press(self, event: gr.EventData, remembered: str, request: gr.Request) -> str:
        """Ask about the merge, or end what asks."""
        verb, about = widgets.pressed(event)
        who, desk = self.services.who(request), self.services.desk
        verbs = {"cancel": desk.cancel, "stop": desk.stop, "retry": desk.retry}
        try:
            if verb in verbs:
                verbs[verb](about, who.name)
            elif (row := self._row(remembered, who)) is not None:
                desk.submit_once(self._look(row, who) if verb == "look" else _score(row), who.name)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error))
        return ""

    def draw(
        self, remembered: str, view: str | None, cell: str, seen: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        """Draw what is known of the merge now; nothing is sent where nothing changed."""
        who = self.services.who(request)
        row = self._row(remembered, who)
        if row is None:
            return self._nothing(seen)
        asked = _Asked(row, self._maker(row), *self._jobs(row, who))
        key = (row.manifest_sha256, view, cell, *(_state(job) for job in (asked.look, asked.score)))
        if key == seen:
            return *(gr.skip() for _ in range(_UPDATES - 1)), seen
        look = asked.look
        report = self.reports.of(look) if look and look.state == "succeeded" else None
        shown = kinmaps.drawn(report, view, cell) if report else kinmaps.hidden()
        return gr.Column(visible=True), self._html(asked), *shown, key

    def _nothing(self, seen: Any) -> tuple[Any, ...]:
        if seen == ("",):
            return *(gr.skip() for _ in range(_UPDATES - 1)), seen
        return gr.Column(visible=False), "", *kinmaps.hidden(), ("",)

    def _html(self, asked: _Asked) -> str:
        look, score = asked.look, asked.score
        parts = [outcomeview.cost_html(asked.made_by)]
        open_jobs = [job for job in (look, score) if job is not None and job.state != "succeeded"]
        waits = waiting_words(self.services, open_jobs)
        parts += [jobview.live_card(job, waits=waits.get(job.id, "")) for job in open_jobs]
        if score is not None and score.state == "succeeded":
            parts.append(outcomeview.blame_html(_verdict(asked.row.name, score)))
        if look is not None and look.state == "succeeded":
            parts.append(kinshipview.sentences_html(look.result.get("sentences", ())))
            words = kinshipview.read_words(look.result)
            parts.append(f'<span class="lab-muted lab-small">{widgets.esc(words)}</span>')
        is_stacked = insight.is_stacked(asked.row, asked.made_by)
        can_look = look is None and not is_stacked
        parts.append(outcomeview.STACKED if is_stacked else "")
        parts.append(outcomeview.buttons_html(can_look=can_look, can_score=score is None))
        return f'<div class="lab-stack">{"".join(part for part in parts if part)}</div>'

    def _row(self, remembered: str, who: Who) -> ModelRow | None:
        name = self.named(remembered)
        if not name:
            return None
        rows = modelview.visible(self.services.store, who)
        row = next((one for one in rows if one.name == name), None)
        return row if row and row.kind in ("merge", "upscaled") and row.parents else None

    def _maker(self, row: ModelRow) -> JobRow | None:
        try:
            return self.services.store.jobs.get(row.job_id) if row.job_id else None
        except LabError:
            return None

    def _jobs(self, row: ModelRow, who: Who) -> tuple[JobRow | None, JobRow | None]:
        store = self.services.store
        look = None
        if not insight.is_stacked(row, self._maker(row)):
            look = insight.best_found(store, self._look(row, who), who.name, failed=True)
        score = insight.found(store, _score(row), who.name, failed=True)
        is_of_another = score is not None and score.created < row.created
        return look, None if is_of_another else score

    def _look(self, row: ModelRow, who: Who) -> InspectSpec:
        """Return the look at a merge; parents that are gone are left out, unless all are."""
        rows = modelview.visible(self.services.store, who)
        names = set(modelview.names(rows))
        ordered = insight.parents_in_order(row, self._maker(row))
        parents = [name for name in ordered if name in names] or ordered
        return insight.looked(row.name, parents[:MOST_MODELS], rows, after=True)


def _score(row: ModelRow) -> ScoreSpec:
    return ScoreSpec(models=(row.name, *row.parents[:_MOST_SCORED]), multiple_choice=None, text=SHIPPED_TEXT)


def _verdict(result: str, job: JobRow) -> Blame | None:
    """Return who is to blame by a finished score job; None where it read too little."""
    metric = "bits_per_byte"
    values = {one["model"]: one["value"] for one in job.result.get("scores", ()) if one["metric"] == metric}
    against = {one["model"]: one for one in job.result.get("verdicts", ()) if one["metric"] == metric}
    return blame(result, values, against) if result in values and len(values) > 1 else None


def _state(job: JobRow | None) -> tuple[str, str, float]:
    return (job.id, job.state, job.progress) if job else ("", "", 0.0)
