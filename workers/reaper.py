"""Finds what nobody looks after any more: lapsed leases, lost bells, leftovers of dead attempts.

Every consumer runs one; they do no harm beside each other.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from lab.core.errors import LabError, Unavailable
from lab.core.lastwords import last_lines, log_of
from lab.core.settings import Settings
from lab.core.spec import Lane
from lab.core.store import Store
from lab.models.janitor import Janitor
from workers.lane import LanePlan
from workers.publishing import clear_after
from workers.queue import Bell

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
LEFTOVER_SECONDS = 3600.0


class Reaper:
    """Makes its rounds in a thread.

    Args:
        settings: the lab's settings.
        store: the lab's memory.
        bells: of every lane, to ring for jobs that are queued again.
        plan: how our lane works.
        beat: says that this worker is alive.
        wake: makes this worker look for jobs itself, for when the queue is down.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bells: Mapping[Lane, Bell],
        plan: LanePlan,
        beat: Callable[[], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._store, self._bells, self._plan = settings, store, bells, plan
        self._beat, self._wake = beat, wake
        self._janitor = Janitor(settings, store)
        self._ended = threading.Event()
        self._last_round = time.monotonic()
        self._last_sweep = float("-inf")

    def start(self) -> None:
        """Begin the rounds."""
        threading.Thread(target=self._run, daemon=True, name="reaper").start()

    def stop(self) -> None:
        """Make no further round."""
        self._ended.set()

    def round(self) -> None:
        """Look once for everything."""
        self._beat()
        if self._have_slept():
            return  # our own jobs' leases lapsed while we were stopped: let them be renewed first
        for row in self._store.jobs.reap(self._last_lines):
            log.warning("Job %s, attempt %d: its lease lapsed; it is %s.", row.id, row.attempt, row.state)
            if row.is_terminal:
                clear_after(row, self._settings)
            if row.state == "queued":
                self._bells[row.lane].ring(row.id)  # type: ignore[index]  # a lane, by the table's constraint
        self._ring_again()
        if time.monotonic() - self._last_sweep > SWEEP_SECONDS:
            self._last_sweep = time.monotonic()
            self._janitor.sweep(older_than=LEFTOVER_SECONDS)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._round_or_wait()
            self._ended.wait(self._plan.reap_seconds)

    def _round_or_wait(self) -> None:
        try:
            self.round()
        except Unavailable as error:
            log.warning("The next round tries again. %s", error)
        except (LabError, OSError):  # a disk that is full or can't be read, too
            log.warning("A round failed; the next one tries again.", exc_info=True)

    def _have_slept(self) -> bool:
        """Whether the time since the last round is too long for a process that was not stopped."""
        now = time.monotonic()
        slept = now - self._last_round > self._plan.reap_seconds + self._plan.heartbeat_seconds
        self._last_round = now
        return slept

    def _last_lines(self, job_id: str, attempt: int) -> str:
        return last_lines(log_of(self._settings.jobs, job_id, attempt))

    def _ring_again(self) -> None:
        """One ring wakes the lane, which then works until nothing waits."""
        bell = self._bells[self._plan.lane]
        stale = self._store.jobs.stale_queued(self._plan.stale_seconds)
        mine = [row for row in stale if row.lane == self._plan.lane]
        if mine and not bell.waiting() and not bell.ring(mine[0].id):
            self._wake()
