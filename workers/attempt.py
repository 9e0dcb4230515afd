"""One attempt at a job, as the job's own code sees it (core/job.Job)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.core.errors import Cancelled, Fenced, Released
from lab.core.events import EventBuffer, EventKind
from lab.core.job import Device, Partner, Shelf, ShelfJob
from lab.core.store.rows import JobRow
from workers.orders import Asked


@dataclass
class Attempt(ShelfJob):
    """A job's view of the lab, fed by what the consumer asks over the pipe.

    Args:
        row: the job, as claimed.
        device: where to compute.
        folder: the job's work folder; it survives a crash.
        shelf: where names become places.
        asked: what has been asked of this attempt.
        events: where its events go.
        use_threads: sets the CPU threads of the calling thread.
        partners: the further devices that it holds; its threads are shared with the processes on them.
        reach: passes a failpoint.
        opened: the names of the models that the job has asked for.
    """

    row: JobRow
    device: Device
    folder: Path
    shelf: Shelf
    asked: Asked
    events: EventBuffer
    use_threads: Callable[[int], None]
    reach: Callable[[str], None]
    opened: list[str] = field(default_factory=list)
    partners: tuple[Partner, ...] = ()
    _threads: int = 0

    @property
    def id(self) -> str:
        """The job's id."""
        return self.row.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.row.attempt

    def model(self, ref: str) -> Path:
        """Return the folder of a model, and remember that the job opened it."""
        folder = super().model(ref)
        self.opened.append(ref)
        return folder

    @property
    def thrift(self) -> int:
        """1 once the memory has run out under an earlier attempt."""
        return self.row.thrift

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Queue one event."""
        self.events.emit(kind, **payload)

    def breathe(self) -> None:
        """Notice what has been asked, and take the share of CPU threads that is ours now.

        Raises:
            Fenced: the lease lapsed without renewal: another attempt may have begun.
            Cancelled: the owner cancelled the job.
            Released: the worker shuts down.
        """
        self.reach("breathe")
        self.check_ownership()
        if self.asked.release:
            raise Released
        if self.asked.threads != self._threads:
            self._threads = self.asked.threads
            self.use_threads(max(1, self._threads // (1 + len(self.partners))))

    def check_ownership(self) -> None:
        """Make sure that the job is still this attempt's and still wanted.

        Raises:
            Fenced: the lease lapsed without renewal: another attempt may have begun.
            Cancelled: the owner cancelled the job.
        """
        if time.monotonic() > self.asked.held_until:
            raise Fenced(f"Attempt {self.attempt} of job {self.id} was not renewed in time.")
        if self.asked.cancel:
            raise Cancelled

    def stop_asked(self) -> bool:
        """Whether the owner asked to stop and keep what there is."""
        return self.asked.stop or self.row.stop_requested
