"""The part of the Merge page that looks into the chosen models before they are merged.

A look is a short job. Its result is found again by what it looked at, so that a reload and a return to
earlier models show it at once; another choice of models cancels a look that is under way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.store.rows import LIVE, JobRow
from lab.merge.inspect.spec import InspectSpec
from lab.ui import insight, jobview, kinshipview, modelview, widgets
from lab.ui.mergeform import Filled
from lab.ui.mergelayout import Parts
from lab.ui.pages import kinmaps
from lab.ui.redraw import Part
from lab.ui.services import Services, Who
from lab.ui.waiting import waiting_words

Read = Callable[[Sequence[Any]], Filled]

_OFFER = (
    '<p class="lab-muted" style="margin:0 0 12px">How far has each model moved from the base, and where? Do '
    "they pull together or apart? A few seconds of reading, no merge.</p>"
    f'<div class="lab-buttons">{widgets.button("Look into the weights", "look")}</div>'
)


def build_panel(services: Services, read: Read, parts: Parts) -> Part:
    """Lay out the panel.

    Args:
        services: the store and the desk.
        read: makes a filled form from the values of `parts.inputs`.
        parts: the form.

    Returns:
        What the page draws again at every tick.
    """
    page = _Insight(services, read)
    with gr.Column(elem_classes="lab-panel"):
        widgets.picture('<h2 class="lab-h2">Before you merge: what the weights say</h2>')
        board = widgets.board(_OFFER, elem_id="lab-before")
        problems = widgets.picture(elem_id="lab-before-problems")
        maps = kinmaps.lay_out("lab-before")
    job, follows, seen = gr.State(""), gr.State(False), gr.State(())
    inputs = [job, maps.view, maps.cell, seen]
    outputs = [board, *maps.outputs, seen]
    quiet = {"show_progress": "hidden"}

    def draw_after(event: Any, name: str) -> None:
        event.then(page.draw, inputs, outputs, api_name=name, **quiet)

    pressed = board.click(
        page.press, [job, *parts.inputs], [job, follows, problems], api_name="insight_press", **quiet
    )
    draw_after(pressed, "insight_pressed")
    changes = [one.change for one in (*parts.models, parts.base, parts.use_recipe)]
    changed = gr.on(
        [*changes, parts.recipe.blur], page.follow, [job, follows, *parts.inputs], [job, problems],
        api_name="insight_follow", trigger_mode="always_last", **quiet,
    )  # fmt: skip
    draw_after(changed, "insight_followed")
    maps.view.input(page.draw, inputs, outputs, api_name="insight_view", **quiet)
    clicked = maps.board.click(kinmaps.clicked, None, [maps.cell], api_name="insight_cell", **quiet)
    draw_after(clicked, "insight_clicked")
    return Part(page.draw, inputs, outputs)


class _Insight:
    """The panel's handlers."""

    def __init__(self, services: Services, read: Read) -> None:
        self.services = services
        self.read = read
        self.reports = kinmaps.Reports(services.desk)

    def press(self, event: gr.EventData, job_id: str, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Begin a look, read every weight, or end a look."""
        verb, about = widgets.pressed(event)
        who, desk = self.services.who(request), self.services.desk
        try:
            if verb in ("look", "exact"):
                spec = self._wanted(given, who, exact=verb == "exact")
                return desk.submit_once(spec, who.name).id, True, ""
            verbs = {"cancel": desk.cancel, "retry": desk.retry}
            if verb in verbs:
                job_id = verbs[verb](about, who.name).id
        except (ValidationError, LabError) as error:
            return job_id, gr.skip(), widgets.problem_list(problems_of(error))
        return job_id, verb != "cancel", ""

    def follow(self, job_id: str, follows: bool, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Go with a change of models: show what is known of them, and end a look at the earlier ones."""
        who = self.services.who(request)
        before = self._job(job_id)
        try:
            spec = self._wanted(given, who)
            known = insight.best_found(self.services.store, spec, who.name)
            if known is not None and known.id == job_id:
                return job_id, ""
            self._leave(before, who)
            if known is None and follows:
                known = self.services.desk.submit_once(spec, who.name)
        except (ValidationError, LabError):
            self._leave(before, who)
            known = None  # the form says what stands in the way
        return known.id if known else "", ""

    def draw(
        self,
        job_id: str,
        view: str | None,
        cell: str,
        seen: Any,
        request: gr.Request,  # noqa: ARG002  a Part
    ) -> tuple[Any, ...]:
        """Draw the look as it is now; nothing is sent where nothing changed."""
        job = self._job(job_id)
        key = (job_id, job.state, job.progress, view, cell) if job else ("",)
        if key == seen:
            return *(gr.skip() for _ in range(7)), seen
        report = self.reports.of(job) if job and job.state == "succeeded" else None
        if job is None or report is None:
            return self._board(job), *kinmaps.hidden(), key
        return self._board(job), *kinmaps.drawn(report, view, cell), key

    def _board(self, job: JobRow | None) -> str:
        if job is None or job.state == "cancelled":
            return _OFFER
        if job.state != "succeeded":
            return jobview.live_card(job, waits=waiting_words(self.services, [job]).get(job.id, ""))
        is_sampled = job.result.get("read", 0) < job.result.get("elements", 0)
        more = widgets.button("Read every weight", "exact") if is_sampled else ""
        return (
            f"{kinshipview.sentences_html(job.result.get('sentences', ()))}"
            f'<div class="lab-buttons" style="margin-top:12px">'
            f'<span class="lab-muted lab-small">{widgets.esc(kinshipview.read_words(job.result))}</span>'
            f"{more}</div>"
        )

    def _wanted(self, given: Sequence[Any], who: Who, *, exact: bool = False) -> InspectSpec:
        rows = modelview.visible(self.services.store, who)
        return insight.wanted(self.read(given), rows, exact=exact)

    def _leave(self, job: JobRow | None, who: Who) -> None:
        """Cancel a look that nobody waits for any more."""
        if job is not None and job.state in LIVE and job.owner == who.name:
            self.services.desk.cancel(job.id, who.name)

    def _job(self, job_id: str) -> JobRow | None:
        try:
            return self.services.store.jobs.get(job_id) if job_id else None
        except LabError:
            return None
