"""Reading a job's story to its end, however long it is, in pages of bounded size.

A reader holds the number of the last event that it has. Whatever happens to it, a reload, a second tab, a
slept laptop, another web server, it goes on after that number; the job never notices.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from lab.core.events import Event
from lab.core.store.rows import JobRow
from lab.jobs import Desk
from lab.ui import charts
from lab.ui.transcript import Transcript

TAIL_SECONDS = 0.125
"""Eight updates a second at most, all columns in one."""

QUEUED_SECONDS = 0.5
"""How often a job is looked at in the end that waits and waits."""

FRESH_SECONDS = TAIL_SECONDS / 2
EVENTS_KEPT = 1000
JOBS_KEPT = 64
CURVES_KEPT = 16


@dataclass(frozen=True)
class Heard:
    """What was read of a job: its row, and then its newest events, those after `since`."""

    row: JobRow
    since: int
    events: Sequence[Event]
    at: float

    @property
    def seq(self) -> int:
        """The number of the last event here."""
        return self.since + len(self.events)


class Ear:
    """Reads running jobs once for all readers of a page: who asks within half a beat shares one look.

    Args:
        desk: follows the jobs.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._heard: OrderedDict[str, Heard] = OrderedDict()
        self._looks: dict[str, asyncio.Task[Heard]] = {}

    async def hear(self, job_id: str) -> Heard:
        """Return what a job has said lately."""
        heard = self._heard.get(job_id)
        if heard is not None and time.monotonic() - heard.at < FRESH_SECONDS:
            return heard
        look = self._looks.get(job_id)
        if look is None:
            look = asyncio.create_task(self._look(job_id, heard))
            self._looks[job_id] = look
            look.add_done_callback(lambda _: self._looks.pop(job_id, None))
        return await asyncio.shield(look)  # a reader that leaves does not take the others' look along

    async def _look(self, job_id: str, before: Heard | None) -> Heard:
        heard = await asyncio.to_thread(_look, self.desk, job_id, before)
        self._heard[job_id] = heard
        self._heard.move_to_end(job_id)
        if len(self._heard) > JOBS_KEPT:
            self._heard.popitem(last=False)
        return heard


async def tail(ear: Ear, job: JobRow, transcript: Transcript) -> AsyncIterator[JobRow]:
    """Keep a transcript up to date and yield the job's row at every change, until the job ends.

    A reader that is slow, or was asleep, gets all that was said meanwhile in one update.

    Args:
        ear: reads the job.
        job: a comparison.
        transcript: takes in what the job says; may hold a part of it already.
    """
    is_first, pause = True, TAIL_SECONDS
    while True:
        heard = await ear.hear(job.id)
        job = heard.row
        is_news = False
        if transcript.seq < heard.since:  # a new reader, or one that slept
            is_news = await asyncio.to_thread(catch_up, ear.desk, job, transcript)
        is_news = transcript.add(heard.events[max(transcript.seq - heard.since, 0) :]) or is_news
        if job.is_terminal:
            transcript.close()
        if is_news or is_first or job.is_terminal:
            yield job
        if job.is_terminal:
            return
        is_first = False
        pause = min(pause * 1.2, QUEUED_SECONDS) if job.state == "queued" else TAIL_SECONDS
        await asyncio.sleep(pause)


def catch_up(desk: Desk, job: JobRow, transcript: Transcript) -> bool:
    """Take in all that a job had said when its row was read; return whether there was anything new."""
    is_news = False
    for page in pages_after(desk, job, transcript.seq):
        is_news = transcript.add(page) or is_news
    return is_news


def pages_after(desk: Desk, job: JobRow, seq: int) -> Iterator[Sequence[Event]]:
    """Read what a job had said after an event when its row was read, page by page."""
    while seq < job.last_seq and (page := desk.follow(job.id, seq)):
        yield page
        seq = page[-1].seq


def _look(desk: Desk, job_id: str, before: Heard | None) -> Heard:
    """Read the row first: of a job that has ended, all was said before."""
    row = desk.store.jobs.get(job_id)
    if before is None:
        return Heard(row, row.last_seq, (), time.monotonic())
    news = [event for page in pages_after(desk, row, before.seq) for event in page]
    events = [*before.events, *news][-EVENTS_KEPT:]
    last = news[-1].seq if news else before.seq
    return Heard(row, last - len(events), events, time.monotonic())


@dataclass
class _Curve:
    seq: int = 0
    told: list[Event] = field(default_factory=list)
    lines: Mapping[str, Sequence[charts.Point]] = field(default_factory=dict)


class Curves:
    """What jobs measured, as lines for charts. Each event is read once, however often the chart is drawn.

    Args:
        desk: follows the jobs.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: OrderedDict[str, _Curve] = OrderedDict()
        self._lock = Lock()

    def of(self, job: JobRow) -> Mapping[str, Sequence[charts.Point]]:
        """Return a job's lines by name, as `charts.series` does."""
        with self._lock:
            curve = self._known.setdefault(job.id, _Curve())
            self._known.move_to_end(job.id)
            if len(self._known) > CURVES_KEPT:
                self._known.popitem(last=False)
            for page in pages_after(self._desk, job, curve.seq):
                curve.seq = page[-1].seq
                curve.told += [event for event in page if event.kind == "metric"]
                curve.lines = {}
            if not curve.lines:
                curve.lines = charts.series(curve.told)
            return curve.lines
