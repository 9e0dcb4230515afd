"""A job where it was started: its progress in place, its buttons, and then its result."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from lab.core.errors import LabError, problems_of
from lab.core.store.rows import LIVE, JobRow
from lab.ui import jobview, modelview, widgets
from lab.ui.redraw import Seen, only_changed
from lab.ui.services import Services, Who
from lab.ui.waiting import waiting_words


class Running:
    """Handlers for the part of a page that shows the page's own job.

    Args:
        services: the store and the desk.
        kinds: the kinds of job that the page starts.
        address: the key under which the job's id stands in the address, so that a reload finds it.
        result: gives the HTML below a finished job, from the name of the model that it made.
    """

    def __init__(
        self, services: Services, kinds: tuple[str, ...], address: str, result: Callable[[str], str]
    ) -> None:
        self.services = services
        self.kinds = kinds
        self.address = address
        self.result = result

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Find the job that the address names, or else the one that is under way."""
        job = self.find(request.query_params.get(self.address, ""), self.services.who(request))
        job_id = job.id if job else ""
        return job_id, *self.draw(job_id, (), request)

    def draw(self, job_id: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:  # noqa: ARG002  a Part
        """Draw the job as the database has it now."""
        return only_changed(seen, self.html(job_id))

    def press(self, job_id: str, seen: Seen, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Cancel, stop or repeat the job."""
        verb, about = widgets.pressed(event)
        desk = self.services.desk
        verbs = {"cancel": desk.cancel, "stop": desk.stop, "retry": desk.retry}
        problems = ""
        try:
            job_id = verbs[verb](about, self.services.who(request).name).id
        except LabError as error:
            problems = widgets.problem_list(problems_of(error))
        return job_id, problems, *self.draw(job_id, seen, request)

    def find(self, wanted: str, who: Who) -> JobRow | None:
        """Return the wanted job of this kind, or else this person's newest live one."""
        jobs = self.services.store.jobs.list(owner=who.name, kinds=self.kinds, limit=50)
        named = next((job for job in jobs if job.id == wanted), None)
        return named or next((job for job in jobs if job.state in LIVE), None)

    def job(self, job_id: str) -> JobRow | None:
        """Return the job, where there is one."""
        try:
            return self.services.store.jobs.get(job_id) if job_id else None
        except LabError:
            return None

    def html(self, job_id: str) -> str:
        """Return the job's card and, below a finished one, what it made."""
        job = self.job(job_id)
        if job is None:
            return ""
        made = [row.name for row in self.services.store.models.list() if row.job_id == job.id]
        # The newest is what the job was for; the others are only named.
        links = "".join([*map(self.result, made[:1]), *map(modelview.open_link, made[1:])])
        waits = waiting_words(self.services, [job]).get(job.id, "")
        card = jobview.live_card(job, links, waits=waits)
        return f'<div data-address="{self.address}" data-value="{widgets.esc(job.id)}">{card}</div>'
