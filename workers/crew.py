"""The child processes of one consumer: the fork server they come from, and a ready child for each place.

Batch: every job gets a child of its own, and the next one is forked ahead of time, so that a job never
waits for imports. Chat: one child, the engine, stays and serves every place.
"""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

from lab.core.settings import Settings
from workers import child
from workers.endings import name_of_exit, words_for_exit
from workers.lane import LanePlan
from workers.orders import Order, Report

EXIT_SECONDS = 5.0
FORK_TRIES = 4


class Child:
    """The consumer's end of one child process.

    Args:
        settings: the lab's settings.
        plan: how the lane works.
        slot: the place that the child fills.
    """

    def __init__(self, settings: Settings, plan: LanePlan, slot: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._news = threading.Condition()
        self._sending = threading.Lock()
        self._joining = threading.Lock()
        self._done: set[tuple[str, int]] = set()
        self._told: set[tuple[str, int]] = set()
        self._gone = False
        self.ready: Report | None = None
        self.models: tuple[str, ...] = ()
        self.kept_bytes = 0
        self.broke_device = False
        self.process = context.Process(target=child.main, args=(theirs, settings, plan, slot))
        self._start()
        theirs.close()
        threading.Thread(target=self._listen, args=(self._pipe,), daemon=True, name="reports").start()

    def _start(self) -> None:
        """Fork the process; from a new fork server where the old one dies at that moment."""
        for _ in range(FORK_TRIES - 1):
            with suppress(EOFError, OSError):
                self.process.start()
                return
        self.process.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process is there and listens."""
        return not self._gone

    def send(self, order: Order) -> None:
        """Give an order; a process that is gone takes none, and its supervisor notices by itself."""
        with self._sending, suppress(OSError):
            self._pipe.send(order)

    def wait_until_ready(self, seconds: float) -> Report | None:
        """Wait for the child's first report; None when it is late or the process ended."""
        with self._news:
            self._news.wait_for(lambda: self.ready is not None or self._gone, seconds)
        return self.ready

    def wait_until_done(self, job_id: str, attempt: int, seconds: float) -> bool:
        """Wait until an attempt is over, for good or ill: reported done, or its process gone."""
        with self._news:
            return self._news.wait_for(lambda: (job_id, attempt) in self._done or self._gone, seconds)

    def has_reported(self, job_id: str, attempt: int) -> bool:
        """Whether the child itself said that an attempt is over."""
        with self._news:
            return (job_id, attempt) in self._done

    def has_told_the_store(self, job_id: str, attempt: int) -> bool:
        """Whether the child said that the store knows how an attempt ended."""
        with self._news:
            return (job_id, attempt) in self._told

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        pid = self.process.pid
        if pid is not None and self._is_running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._join()

    def see_off(self) -> None:
        """Let a child that has done its job end; kill it when it does not."""
        self._join()
        self.kill()

    def words_for_end(self) -> str:
        """Say how the process ended."""
        self._join()
        return words_for_exit(self.process.exitcode)

    def name_of_end(self) -> str:
        """Name how the process ended: a signal or an exit code; empty while it is there."""
        return "" if self._is_running() else name_of_exit(self.process.exitcode)

    def _is_running(self) -> bool:
        with self._joining:
            return self.process.is_alive()

    def _join(self) -> None:
        with self._joining:
            self.process.join(EXIT_SECONDS)
        if not self._is_running():
            with self._news:
                self._news.wait_for(lambda: self._gone, EXIT_SECONDS)

    def _listen(self, pipe: Connection) -> None:
        while True:
            try:
                report: Report = pipe.recv()
            except (EOFError, OSError):
                break
            with self._news:
                if report.verb == "ready":
                    self.ready = report
                else:
                    self._done.add((report.job_id, report.attempt))
                    if report.is_told:
                        self._told.add((report.job_id, report.attempt))
                    self.models, self.kept_bytes = report.models, report.kept_bytes
                    self.broke_device = self.broke_device or report.broke_device
                self._news.notify_all()
        with self._news:
            self._gone = True
            self._news.notify_all()


class Crew:
    """A ready child for every place of the lane.

    Args:
        settings: the lab's settings.
        plan: how the lane works.
    """

    def __init__(self, settings: Settings, plan: LanePlan) -> None:
        self._settings = settings
        self._plan = plan
        self._children: dict[int, Child] = {}
        self._lock = threading.Lock()
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(plan.preload))

    def child(self, slot: int) -> Child:
        """Return the child that fills a place, a new one when the last one ended."""
        with self._lock:
            place = self._place(slot)
            if place not in self._children or not self._children[place].is_alive:
                self._children[place] = Child(self._settings, self._plan, place)
            return self._children[place]

    def take(self, slot: int) -> Child:
        """Return a child for one job; on the batch lane the next one is made ready behind it."""
        taken = self.child(slot)
        if not self._plan.keeps_engine:
            with self._lock:
                del self._children[self._place(slot)]
        return taken

    def refill(self, slot: int) -> None:
        """Make the next child of a place ready."""
        self.child(slot)

    def models(self) -> tuple[str, ...]:
        """Return what the children hold in memory."""
        with self._lock:
            return tuple(name for child in self._children.values() for name in child.models)

    def kept_bytes(self) -> int:
        """Return what the children's loaded models take."""
        with self._lock:
            return sum(child.kept_bytes for child in self._children.values() if child.is_alive)

    def forget_models(self) -> None:
        """Have the children give the memory of their loaded models back."""
        with self._lock:
            for child in self._children.values():
                child.send(Order("forget"))

    def replace(self, slot: int) -> Child:
        """End the child that waits at a place, and make a new one: the device may be well again."""
        self.child(slot).kill()
        return self.child(slot)

    def close(self) -> None:
        """End every child that waits for a job."""
        with self._lock:
            for child in self._children.values():
                child.send(Order("leave"))
            for child in self._children.values():
                child.see_off()

    def _place(self, slot: int) -> int:
        return 0 if self._plan.keeps_engine else slot
