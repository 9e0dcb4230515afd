"""One lane's consumer: Huey's, with our supervisors as its workers.

It imports no model library and stays small; its children do the work. Stopping it releases the running
jobs, ends every process that it started and takes half a minute at the most.
"""

import logging
import os
import signal
import socket
import threading
from types import FrameType

from huey import Huey
from huey.consumer import Consumer

from lab.core.errors import JobFailed
from lab.core.settings import Settings, enter_child_environment
from lab.core.store import open_store
from lab.core.store.devices import Place
from workers.crew import Crew
from workers.lane import LanePlan
from workers.orders import Report
from workers.queue import NO_ANSWER, make_bells, open_queue
from workers.reaper import Reaper
from workers.seats import READY_SECONDS, Seat
from workers.supervisor import Supervisor
from workers.tasks import add_task

SERVER_PAUSE_SECONDS = 2.0
CHAT_PLACES = 2
"""Two, so that a token preview never waits behind a long answer."""


def shorten_outage(record: logging.LogRecord) -> bool:
    """Log a server that does not answer as one line: the trace of where Huey noticed says nothing more."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, NO_ANSWER):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        words = (str(error).splitlines() or [type(error).__name__])[0]
        record.msg, record.args, record.exc_info = "The queue does not answer: %s", (words,), None
    return True


class LaneConsumer(Consumer):
    """Huey's consumer, which on any signal to stop tells the supervisors first and then waits for them."""

    def __init__(self, queue: Huey, supervisor: Supervisor, places: int, shutdown_seconds: float) -> None:
        super().__init__(
            queue,
            workers=places,
            periodic=False,
            initial_delay=0.02,
            # A storage that waits for messages by itself pauses only while it does not answer.
            max_delay=SERVER_PAUSE_SECONDS if queue.storage.blocking else 0.05,
            backoff=2.0 if queue.storage.blocking else 1.1,
            health_check_interval=1,
            shutdown_timeout=shutdown_seconds,
        )
        self._supervisor = supervisor

    def start(self) -> None:
        """Listen to signals, and then begin to work: a job claimed at once must be given back, too."""
        self._set_signal_handlers()
        super().start()

    def stop(self, graceful: bool = True) -> None:  # noqa: ARG002  every stop of ours is graceful
        """Release the running jobs and wait until they have ended."""
        self._supervisor.stopping.set()
        super().stop(graceful=True)

    def _handle_signal(self, signum: int, _: FrameType | None) -> None:
        """Every signal to stop means the same, and the second changes nothing: a limit is set anyway."""
        self._signum, self._restart, self._graceful = signum, False, True


def run_lane(settings: Settings, plan: LanePlan, with_parent: bool = False) -> None:
    """Run one lane's consumer until it is told to stop.

    Args:
        settings: the lab's settings.
        plan: how the lane works.
        with_parent: stop when standard input is closed, as it is when the parent process ends.
    """
    logging.basicConfig(level=logging.WARNING, format=f"%(asctime)s {plan.lane} %(levelname)s %(message)s")
    for part in ("Worker", "Scheduler"):
        logging.getLogger(f"huey.consumer.{part}").addFilter(shorten_outage)
    enter_child_environment()
    if with_parent:
        threading.Thread(target=_stop_with_parent, daemon=True, name="parent").start()
    store = open_store(settings, lease_seconds=plan.lease_seconds)
    crew = Crew(settings, plan)
    worker_id = f"{socket.gethostname()}-{plan.lane}-{os.getpid()}"
    supervisor = Supervisor(settings, store, plan, crew, worker_id)

    def beat() -> None:
        host, places = socket.gethostname(), supervisor.places
        store.workers.beat(worker_id, plan.lane, host, supervisor.device, crew.models(), places)
        supervisor.beat()

    reaper = Reaper(settings, store, make_bells(settings), plan, beat, supervisor.wake)
    reaper.start()
    try:
        seats = _seats(plan, crew)
        supervisor.open(seats)
        queue = open_queue(settings, plan.lane)
        add_task(queue, supervisor.work)
        LaneConsumer(queue, supervisor, len(seats), plan.shutdown_seconds + plan.grace_seconds / 2).run()
    finally:
        reaper.stop()
        crew.close()
        store.workers.forget(worker_id)
        store.close()


def _seats(plan: LanePlan, crew: Crew) -> list[Seat]:
    """Start the fork server and a first child for each device, which says what it computes on."""
    first = _ready(crew, 0)
    devices = [first] if plan.keeps_engine else [first, *_others(crew, len(first.devices))]
    facts = [report.device for report in devices if report.device is not None]
    slots = plan.slots or (CHAT_PLACES if plan.keeps_engine else len(facts))
    host = socket.gethostname()
    every = slots + (0 if plan.keeps_engine else plan.short_slots)
    chosen = [facts[slot % len(facts)] for slot in range(every)]
    return [
        Seat(slot, device, Place(host, device.name), only_short=slot >= slots)
        for slot, device in enumerate(chosen)
    ]


def _others(crew: Crew, count: int) -> list[Report]:
    for slot in range(1, count):
        crew.refill(slot)  # all at once, then wait
    return [_ready(crew, slot) for slot in range(1, count)]


def _ready(crew: Crew, slot: int) -> Report:
    ready = crew.child(slot).wait_until_ready(READY_SECONDS)
    if ready is None:
        text = "A worker process did not start; the lane's log in the data folder says why."
        raise JobFailed("no_worker", text)
    return ready


def _stop_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would break the interpreter's own ending
        pass
    os.kill(os.getpid(), signal.SIGTERM)
