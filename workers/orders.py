"""What the consumer and its child processes say to each other over a pipe, and who listens.

Nobody else can write to these pipes.
"""

import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Literal


@dataclass(frozen=True)
class DeviceFacts:
    """A device as a child finds it, for the table of devices.

    Attributes:
        name: how this machine calls it: "cpu", "cuda:1".
        words: for people.
        total_bytes: the memory that jobs may have of it.
    """

    name: str
    words: str
    total_bytes: int


@dataclass(frozen=True)
class Order:
    """From the consumer to a child.

    Attributes:
        verb: run a job; cancel, stop (and keep) or release it; renew its lease; forget the loaded models;
            leave (end the process).
        job_id: which job.
        attempt: which attempt of it; the child runs no other.
        threads: the CPU threads that the job may use from now on.
        at: when the lease began, by the machine's monotonic clock, which all its processes share: an
            order that waited in the pipe while everything was stopped renews nothing.
    """

    verb: Literal["run", "cancel", "stop", "release", "renew", "forget", "leave"]
    job_id: str = ""
    attempt: int = 0
    threads: int = 1
    at: float = 0.0


@dataclass(frozen=True)
class Report:
    """From a child to the consumer.

    Attributes:
        verb: ready to work, or done with a job (whatever became of it).
        job_id: the job, for "done".
        attempt: its attempt.
        devices: what the child can compute on, in words, for "ready".
        device: the child's own device, for "ready".
        models: what the child holds in memory.
        kept_bytes: what those models take.
        broke_device: whether the device failed under the job.
        is_told: whether the store knows how the attempt ended.
    """

    verb: Literal["ready", "done", "forgot"]
    job_id: str = ""
    attempt: int = 0
    devices: tuple[str, ...] = ()
    device: DeviceFacts | None = None
    models: tuple[str, ...] = ()
    kept_bytes: int = 0
    broke_device: bool = False
    is_told: bool = False


@dataclass(frozen=True)
class Farewell:
    """How an attempt was left by its own process.

    Attributes:
        broke_device: whether the device failed under it: nothing in this process can compute on it any more.
        is_told: whether the store knows how it ended, so that nobody need look.
    """

    broke_device: bool = False
    is_told: bool = False


@dataclass
class Asked:
    """What has been asked of one running attempt so far. Written by the listener, read by the job.

    Attributes:
        cancel: its owner wants it to end.
        stop: its owner wants it to keep what it has and end.
        release: the worker shuts down.
        threads: the CPU threads that it may use.
        held_until: by the monotonic clock, when the lease lapses unless renewed.
    """

    threads: int
    held_until: float
    cancel: bool = False
    stop: bool = False
    release: bool = False


@dataclass
class Listener:
    """Reads orders in a thread of its own: runs go to a queue, the rest to the attempt they concern.

    So does the order to forget models, without an attempt.

    Args:
        connection: the child's end of the pipe.
        lease_seconds: what a renewal is worth.
    """

    connection: Connection
    lease_seconds: float
    runs: "SimpleQueue[tuple[Order, Asked | None] | None]" = field(default_factory=SimpleQueue)
    _asked: dict[tuple[str, int], Asked] = field(default_factory=dict)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin to listen; a closed pipe puts None into the queue of runs."""
        threading.Thread(target=self._listen, daemon=True, name="orders").start()

    def report(self, report: Report) -> None:
        """Tell the consumer something; nobody listens any more when it is gone, and that is fine."""
        if report.verb == "done":
            self._asked.pop((report.job_id, report.attempt), None)
        with self._sending:
            try:
                self.connection.send(report)
            except OSError:
                return

    def _listen(self) -> None:
        while True:
            try:
                order: Order = self.connection.recv()
            except (EOFError, OSError):
                self.runs.put(None)
                return
            self._take(order)

    def _take(self, order: Order) -> None:
        if order.verb == "leave":
            self.runs.put(None)
            return
        if order.verb == "forget":  # not here: a model may be loading, and other orders must not wait for it
            self.runs.put((order, None))
            return
        held_until = order.at + self.lease_seconds
        if order.verb == "run":
            asked = Asked(threads=order.threads, held_until=held_until)
            self._asked[order.job_id, order.attempt] = asked
            self.runs.put((order, asked))
            return
        known = self._asked.get((order.job_id, order.attempt))
        if known is None:
            return
        if order.verb == "renew":
            known.threads, known.held_until = order.threads, held_until
        else:
            setattr(known, order.verb, True)
