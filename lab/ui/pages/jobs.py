"""The Jobs page: what is queued, running and done; a row opens to events, log, recipe and buttons."""

from typing import Any

import gradio as gr

from lab.core.errors import LabError, problems_of
from lab.core.lastwords import last_lines, log_of
from lab.core.store.rows import JobRow
from lab.ui import jobview, widgets
from lab.ui.attempts import attempts_html, attempts_of
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services

_EMPTY = widgets.empty_state(
    "Nothing has run yet",
    "Every merge, fine-tune, comparison and score shows up here with its progress, its log and its recipe.",
    '<a class="lab-button lab-primary" href="?view=finetune" data-view="finetune">Fine-tune a model</a>',
)


def build(services: Services) -> None:
    """Lay out the page and bind it to the store and the desk."""
    page = _Jobs(services)
    widgets.picture(widgets.head("Jobs", "What the lab is doing, has done, and will do next."))
    problems = widgets.picture(elem_id="lab-jobs-problems")
    rows = widgets.board(elem_id="lab-jobs")
    opened = gr.State("")
    seen = gr.State(())
    when_page_opens(page.open_linked, None, [opened, rows, seen], "jobs_open")
    every(gr.Timer(1.5), [Part(page.draw, [opened, seen], [rows, seen])], "jobs")
    rows.click(
        page.press,
        [opened, seen],
        [opened, problems, rows, seen],
        api_name="jobs_press",
        show_progress="hidden",
    )


class _Jobs:
    """The page's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.verbs = {
            "cancel": services.desk.cancel,
            "stop": services.desk.stop,
            "retry": services.desk.retry,
        }

    def open_linked(self, request: gr.Request) -> tuple[Any, ...]:
        """Open the row that the address names."""
        opened = request.query_params.get("job", "")
        return opened, *self.draw(opened, (), request)

    def draw(self, opened: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Draw the list as the database has it now."""
        return only_changed(seen, self._html(opened, request))

    def press(self, opened: str, seen: Seen, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Do what a button in the list says: open or close a row, cancel, stop, retry."""
        verb, about = widgets.pressed(event)
        problems = ""
        if verb == "open":
            opened = "" if about == opened else about
        elif verb in self.verbs:
            try:
                opened = self.verbs[verb](about, self.services.who(request).name).id
            except LabError as error:
                problems = widgets.problem_list(problems_of(error))
        return opened, problems, *self.draw(opened, seen, request)

    def _html(self, opened: str, request: gr.Request) -> str:
        jobs = self._rows(request)
        if not jobs:
            return _EMPTY
        now = self.services.store.database.time()
        mine = self.services.who(request).name
        models = self.services.store.models.list()
        rows = "".join(
            jobview.row(
                job,
                now,
                [model.name for model in models if model.job_id == job.id],
                self._detail(job, mine) if job.id == opened else "",
            )
            for job in jobs
        )
        address = f' data-address="job" data-value="{widgets.esc(opened)}"'
        return f'<div class="lab-card lab-table-card lab-list"{address}>{rows}</div>'

    def _rows(self, request: gr.Request) -> list[JobRow]:
        who = self.services.who(request)
        return list(self.services.store.jobs.list(owner=who.name if who.is_visitor else None))

    def _detail(self, job: JobRow, mine: str) -> str:
        events = self.services.store.events.newest(job.id, jobview.MOST_EVENTS)
        tried = attempts_of(job, self.services.store.events.states(job.id))
        folder = self.services.settings.jobs
        attempts = attempts_html(job, tried, lambda number: last_lines(log_of(folder, job.id, number)))
        return jobview.detail(job, events, attempts, is_mine=job.owner == mine)
