"""Looks after running jobs from outside: claims, renews leases, passes on what is asked, buries the dead.

Runs in the consumer's threads. Imports no model library: the work is done by children.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lab.core.errors import Fenced, LabError, Unavailable
from lab.core.lastwords import LastWords, last_lines, log_of
from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.devices import Place
from lab.core.store.rows import JobRow
from lab.core.store.second_chances import MEMORY, STALLED, Loss
from workers.crew import Child, Crew
from workers.endings import text_for_crash, text_for_memory_kill
from workers.failpoints import Failpoints
from workers.lane import LanePlan
from workers.memory import kills_for_memory
from workers.orders import Order
from workers.publishing import clear_after
from workers.seats import Seat, Seats
from workers.threads import share_of_threads

log = logging.getLogger(__name__)


@dataclass
class Watch:
    """One running attempt, as its supervisor sees it. Times are monotonic seconds.

    `kills` is how many processes the system had killed for want of memory when it began; `total_bytes`
    is what its device has.
    """

    row: JobRow
    child: Child
    renewed: float
    last_seq: int
    last_word: float
    threads: int
    kills: int
    total_bytes: int
    told: set[str] = field(default_factory=set)
    kill_at: float = float("inf")
    why: str = ""

    def order(self, verb: str, at: float = 0.0) -> Order:
        """Return an order to this attempt."""
        return Order(verb, self.row.id, self.row.attempt, self.threads, at)  # type: ignore[arg-type]


class Supervisor:
    """Runs waiting jobs of one lane, as many at a time as there are places.

    Args:
        settings: the lab's settings.
        store: the lab's memory.
        plan: how the lane works.
        crew: the children.
        worker_id: who we are, for the store.
    """

    def __init__(self, settings: Settings, store: Store, plan: LanePlan, crew: Crew, worker_id: str) -> None:
        self._settings, self._store, self._plan, self._crew = settings, store, plan, crew
        self._worker_id = worker_id
        self._failpoints = Failpoints.parse(settings.failpoint, settings.data)
        self._seats = Seats(store, crew)
        self._woken = threading.Thread()
        self.stopping = threading.Event()
        self.device = ""

    def open(self, seats: Sequence[Seat]) -> None:
        """Say what places for jobs there are, before the first one is claimed."""
        self._seats.open(seats)
        self.device = seats[0].facts.words

    @property
    def places(self) -> tuple[int, int]:
        """How many jobs run at a time, and how many short ones besides."""
        short = sum(seat.only_short for seat in self._seats.every)
        return len(self._seats.every) - short, short

    def beat(self) -> None:
        """Tell the store what our devices are, and give memory back that a waiting job needs."""
        if not self.device:
            return
        self._seats.beat()
        if self._plan.keeps_engine:
            kept, names = self._crew.kept_bytes(), ", ".join(self._crew.models())
            if self._store.devices.keep(self._seats.every[0].place, kept, names):
                self._crew.forget_models()

    def work(self) -> None:
        """Claim and run waiting jobs until none waits for a device of ours that is free."""
        seat, refused = self._seats.take(), set[tuple[Place, bool]]()
        try:
            while not self.stopping.is_set():
                self._failpoints.reach("popped")
                row = self._claim(seat)
                if row is not None:
                    refused.clear()
                    self._run(row, seat)
                    continue
                refused.add(seat.sort)
                other = self._seats.swap(seat, refused)
                if other is None:
                    return
                seat = other
        finally:
            self._seats.give_back(seat)

    def _claim(self, seat: Seat) -> JobRow | None:
        """Take a job for a place; one whose device has failed gets none until it answers again."""
        place = seat.place
        if not self._seats.is_well(seat, lambda: log.warning("%s still does not answer.", place.device)):
            return None
        most = self._settings.most_running
        return self._store.jobs.claim(
            self._plan.lane,
            self._worker_id,
            seat.facts.words,
            place,
            seat.only_short,
            most,
            self._seats.others(seat),
        )

    def wake(self) -> None:
        """Look for waiting jobs without a message, in a thread: the queue does not answer."""
        if not self.device or self._woken.is_alive():  # not open yet, or still at it
            return
        self._woken = threading.Thread(target=self._work_unasked, daemon=True, name="woken")
        self._woken.start()

    def _work_unasked(self) -> None:
        try:
            self.work()
        except LabError:
            log.warning("The store does not answer; the reaper's next round tries again.")

    def _run(self, row: JobRow, seat: Seat) -> None:
        self._failpoints.reach("claimed")
        place, began = seat.slot, time.monotonic()
        child = self._crew.take(place)
        threads = self._share()
        watch = Watch(
            row,
            child,
            renewed=began,
            last_seq=row.last_seq,
            last_word=began,
            threads=threads,
            kills=kills_for_memory(),
            total_bytes=seat.facts.total_bytes,
        )
        try:
            child.send(watch.order("run", began))
            self._refill(seat)
            while not child.wait_until_done(row.id, row.attempt, self._plan.poll_seconds):
                self._look_after(watch)
            self._bury(watch)
        except Fenced:
            child.kill()
        finally:
            if not self._plan.keeps_engine:
                child.see_off()
            if child.broke_device:
                self._seats.mark_broken(seat)
            self._refill(seat)

    def _look_after(self, watch: Watch) -> None:
        """Renew the lease when it is time, and act on what the row says.

        Raises:
            Fenced: another attempt owns the job.
        """
        now = time.monotonic()
        try:
            row = self._renew(watch, now)
        except Fenced:
            if self._is_anothers(watch):
                raise
            return  # it has just ended: the child is about to say so
        except LabError:
            if "away" not in watch.told:
                watch.told.add("away")
                log.warning("The store does not answer; job %s goes on until its lease ends.", watch.row.id)
            return
        watch.told.discard("away")
        if row.last_seq != watch.last_seq:
            watch.last_seq, watch.last_word = row.last_seq, now
        if row.state == "cancelling":
            self._tell(watch, "cancel", now + self._plan.grace_seconds, "it did not notice the cancel")
        if row.stop_requested:
            self._tell(watch, "stop", float("inf"), "")
        if self.stopping.is_set():
            self._tell(watch, "release", now + self._plan.shutdown_seconds, "it did not stop in time")
        if now - watch.last_word > self._plan.stall_seconds:
            watch.kill_at, watch.why = now, f"it said nothing for {self._plan.stall_seconds:.0f} seconds"
        if now >= watch.kill_at:
            watch.child.kill()

    def _is_anothers(self, watch: Watch) -> bool:
        try:
            return self._store.jobs.get(watch.row.id).attempt != watch.row.attempt
        except Unavailable:
            return False

    def _renew(self, watch: Watch, now: float) -> JobRow:
        if now - watch.renewed < self._plan.heartbeat_seconds:
            row = self._store.jobs.get(watch.row.id)
            if row.attempt != watch.row.attempt:
                raise Fenced(f"Attempt {watch.row.attempt} no longer owns job {row.id}.")
            return row
        row = self._store.jobs.heartbeat(watch.row.id, watch.row.attempt)
        watch.renewed, watch.threads = now, self._share()
        watch.child.send(watch.order("renew", now))
        return row

    def _tell(self, watch: Watch, verb: str, kill_at: float, why: str) -> None:
        if verb in watch.told:
            return
        watch.told.add(verb)
        watch.child.send(watch.order(verb))
        if kill_at < watch.kill_at:
            watch.kill_at, watch.why = kill_at, why

    def _bury(self, watch: Watch) -> None:
        """Where the attempt ended without telling the store, tell it how, as soon as the store answers.

        Raises:
            Fenced: another attempt owns the job.
        """
        if watch.child.has_told_the_store(watch.row.id, watch.row.attempt):
            return
        while not self.stopping.is_set():
            try:
                self._tell_the_end(watch)
            except Unavailable:
                self.stopping.wait(self._plan.poll_seconds)
            else:
                return
        with suppress(Unavailable):  # the lease lapses, and the reaper tells it
            self._tell_the_end(watch)

    def _tell_the_end(self, watch: Watch) -> None:
        row = self._store.jobs.get(watch.row.id)
        if row.is_terminal or row.state == "queued" or row.attempt != watch.row.attempt:
            return
        if "release" in watch.told and row.state == "running" and row.resumable:
            self._store.jobs.release(row.id, row.attempt, "its worker was stopped")
            return
        if self._was_cut_off(watch) and row.state == "running" and row.resumable:
            log.warning(
                "Job %s, attempt %d, could not reach the store; it is queued again.", row.id, row.attempt
            )
            self._store.jobs.release(
                row.id, row.attempt, "the database did not answer for longer than its lease"
            )
            return
        loss = self._loss_of(watch)
        log.warning("Job %s, attempt %d: %s.", row.id, row.attempt, loss.why)
        left = self._store.jobs.give_up(row.id, row.attempt, loss)
        if left.is_terminal:
            clear_after(left, self._settings)

    def _loss_of(self, watch: Watch) -> Loss:
        """Say how an attempt was lost that did not say it itself."""
        row, why = watch.row, watch.why or self._how_it_ended(watch.child)
        end = watch.child.name_of_end()  # known only now: its end has been waited for
        words = LastWords(end, last_lines(log_of(self._settings.jobs, row.id, row.attempt)))
        if end == "SIGKILL" and not watch.why and kills_for_memory() > watch.kills:
            text = text_for_memory_kill(row.need_bytes, watch.total_bytes)
            return Loss("the system killed its process for want of memory", MEMORY, text, last_words=words)
        code = STALLED if "said nothing" in why else "interrupted"
        return Loss(why, code, text_for_crash(why), last_words=words)

    def _was_cut_off(self, watch: Watch) -> bool:
        """Whether the attempt stopped by itself because its lease could not be renewed: that is no crash."""
        lapsed = time.monotonic() - watch.renewed > self._plan.lease_seconds
        return lapsed and not watch.why and watch.child.has_reported(watch.row.id, watch.row.attempt)

    def _how_it_ended(self, child: Child) -> str:
        return "it ended without a result" if child.is_alive else child.words_for_end()

    def _refill(self, seat: Seat) -> None:
        """Make the next child ready; the seldom used place for short jobs forks its own when it has one."""
        if not self.stopping.is_set() and not seat.only_short:
            self._crew.refill(seat.slot)

    def _share(self) -> int:
        try:
            running = self._store.jobs.count_running()
        except Unavailable:
            running = 1  # the next renewal knows better
        return share_of_threads(self._settings, running)
