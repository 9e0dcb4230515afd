"""The Jobs page: what runs, what waits in which order, what is done.

A row opens to events, log, recipe and buttons. Own waiting jobs are moved in the line; an operator pauses it.
"""

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.lastwords import last_lines, log_of
from lab.core.line import FIRST, HIGH, LOW, NORMAL
from lab.core.store.rows import LIVE, TERMINAL, JobRow
from lab.jobs import LANES
from lab.ui import jobview, widgets
from lab.ui.attempts import attempts_html, attempts_of
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services, Who
from lab.ui.waiting import pause_html, standings_of, words_for

MOST_LIVE = 500

_LEVELS = {str(level): level for level in (LOW, NORMAL, HIGH)}

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
        """Do what a button in the list says: open or close a row, end or move a job, pause the queue."""
        verb, about = widgets.pressed(event)
        who = self.services.who(request)
        problems = ""
        if verb == "open":
            opened = "" if about == opened else about
        try:
            if verb in self.verbs:
                opened = self.verbs[verb](about, who.name).id
            elif verb in ("up", "down"):
                self.services.desk.move(about, who.name, -1 if verb == "up" else 1)
            elif verb == "prefer":
                job_id, _, level = about.partition(" ")
                self.services.desk.prefer(job_id, who.name, _LEVELS.get(level, FIRST))
            elif verb in ("first", "pause", "resume"):
                self._operate(verb, about, who)
        except LabError as error:
            problems = widgets.problem_list(problems_of(error))
        return opened, problems, *self.draw(opened, seen, request)

    def _operate(self, verb: str, about: str, who: Who) -> None:
        """Do what only an operator may.

        Raises:
            BadInput: somebody else asks.
        """
        if not who.is_operator:
            raise BadInput("You are no operator of this lab.", "Only an operator may do this.")
        lanes = [lane for lane in LANES if about in ("", lane)]
        if verb == "first":
            self.services.desk.put_first(about)
        elif verb == "pause":
            self.services.desk.pause(who.name, lanes)
        else:
            self.services.desk.resume(lanes)

    def _html(self, opened: str, request: gr.Request) -> str:
        who = self.services.who(request)
        now = self.services.store.database.time()
        paused = self.services.store.line.pauses()
        jobs, waits = self._rows(who, paused)
        if not jobs:
            return pause_html(paused, now, is_operator=who.is_operator and bool(paused)) + _EMPTY
        moves = _moves(jobs, who.name)
        models = self.services.store.models.list()
        rows = "".join(
            jobview.row(
                job,
                now,
                [model.name for model in models if model.job_id == job.id],
                self._detail(job, who) if job.id == opened else "",
                waits.get(job.id, ""),
                moves.get(job.id, ""),
            )
            for job in jobs
        )
        address = f' data-address="job" data-value="{widgets.esc(opened)}"'
        line = pause_html(paused, now, is_operator=who.is_operator)
        return f'{line}<div class="lab-card lab-table-card lab-list"{address}>{rows}</div>'

    def _rows(self, who: Who, paused: Collection[str]) -> tuple[list[JobRow], Mapping[str, str]]:
        """Return what runs, then what waits, the next first, then what has ended, the newest first.

        And for what waits, what it waits for.
        """
        owner = who.name if who.is_visitor else None
        live = self.services.store.jobs.list(owner=owner, states=LIVE, limit=MOST_LIVE)
        standings = standings_of(self.services, live)
        place = {job: one.position for job, one in standings.items()}
        live.sort(key=lambda job: (job.state == "queued", job.lane, place.get(job.id, 0)))
        ended = self.services.store.jobs.list(owner=owner, states=TERMINAL)
        return live + ended, words_for(live, standings, paused)

    def _detail(self, job: JobRow, who: Who) -> str:
        events = self.services.store.events.newest(job.id, jobview.MOST_EVENTS)
        tried = attempts_of(job, self.services.store.events.states(job.id))
        folder = self.services.settings.jobs
        attempts = attempts_html(job, tried, lambda number: last_lines(log_of(folder, job.id, number)))
        return jobview.detail(
            job, events, attempts, is_mine=job.owner == who.name, is_operator=who.is_operator
        )


def _moves(jobs: list[JobRow], mine: str) -> Mapping[str, str]:
    """Return the buttons that move this person's waiting jobs; jobs come in the order of the line."""
    moves: dict[str, str] = {}
    for lane in LANES:
        own = [job for job in jobs if job.state == "queued" and job.lane == lane and job.owner == mine]
        own = [job for job in own if job.priority < FIRST]
        for at, job in enumerate(own if len(own) > 1 else ()):
            moves[job.id] = jobview.move_buttons(job, is_top=at == 0, is_last=at == len(own) - 1)
    return moves
