"""The state machine of jobs: six states, ten legal transitions, one live attempt.

Every change of state writes its event in the same transaction. Every write of a running job
carries its attempt; a write of an attempt that is no longer the job's own is refused (Fenced).
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from lab.core.errors import Fenced, NotFound
from lab.core.events import NewEvent
from lab.core.lastwords import UNHEARD, LastWords
from lab.core.store.database import Database
from lab.core.store.devices import Place, still_fits, take_hold
from lab.core.store.events import insert_events, progress_values
from lab.core.store.limits import NO_LIMITS, Limits
from lab.core.store.line import next_in_line
from lab.core.store.losses import Losses
from lab.core.store.offers import Offer, that_fits
from lab.core.store.queueing import NewJob, insert_job, job_with_key, promise_names
from lab.core.store.rows import TERMINAL, JobRow, State
from lab.core.store.schema import events, jobs
from lab.core.store.success import Success, list_models, list_scores
from lab.core.store.transitions import (
    CANCELLING,
    HELD,
    QUEUED,
    fail,
    held_row,
    is_one_of,
    job_row,
    move,
    state_event,
)
from lab.core.store.waiting import tell_what_they_wait_for

LEASE_SECONDS = 15.0

Rows = list[JobRow]

_MINE = (jobs.c.id == bindparam("of_job")) & (jobs.c.attempt == bindparam("of_attempt")) & is_one_of(HELD)


@lru_cache(maxsize=16)
def _reserving(changed: tuple[str, ...]) -> ReturningUpdate[Any]:
    """Return the statement that reserves places for events of a held job and changes some columns."""
    given = {name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in changed}
    change = {"last_seq": jobs.c.last_seq + bindparam("told"), **given}
    return update(jobs).where(_MINE).values(change).returning(jobs.c.last_seq)


_GET = select(jobs).where(jobs.c.id == bindparam("of_job"))
_COUNT_HELD = select(func.count()).select_from(jobs).where(is_one_of(HELD))

CANCELS: dict[State, State] = {"queued": "cancelled", "running": "cancelling"}


class Jobs(Losses):
    """The table of jobs.

    Args:
        database: where it lives.
        lease_seconds: how long a claim holds without a heartbeat.
    """

    def __init__(self, database: Database, lease_seconds: float = LEASE_SECONDS) -> None:
        super().__init__(database)
        self._leased = database.now + lease_seconds
        self._begun = func.coalesce(jobs.c.started, database.now)

    def insert(self, new: NewJob, limits: Limits = NO_LIMITS) -> tuple[JobRow, bool]:
        """Queue a job, once per owner and key.

        Returns:
            The job, and whether it is new.

        Raises:
            Conflict: the key was used for another spec, or a model's name is taken or promised.
            BadInput: a limit is reached.
        """
        try:
            with self._db.write() as connection:
                earlier = job_with_key(connection, new)
                if earlier:
                    return earlier, False
                limits.refuse_more(connection, new.owner, makes_models=bool(new.promises))
                promise_names(connection, new)
                return insert_job(connection, self._db.now, new), True
        except IntegrityError:
            # On Postgres another transaction was faster by a moment: with the key, or with a name.
            with self._db.read() as connection:
                earlier = job_with_key(connection, new)
                if earlier is None:
                    promise_names(connection, new)
            if earlier:
                return earlier, False
            raise

    def get(self, job_id: str) -> JobRow:
        """Return one job.

        Raises:
            NotFound: there is none with this id.
        """
        with self._db.read() as connection:
            row = connection.execute(_GET, {"of_job": job_id}).mappings().first()
        if row is None:
            raise NotFound(f"There is no job {job_id[:40]!r}.", "", "Look it up on the Jobs page.")
        return job_row(row)

    def list(
        self,
        owner: str | None = None,
        states: Collection[State] | None = None,
        kinds: Collection[str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> Rows:
        """Return jobs, newest first."""
        query = select(jobs).order_by(jobs.c.created.desc(), jobs.c.id).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states is not None:
            query = query.where(jobs.c.state.in_(states))
        if kinds is not None:
            query = query.where(jobs.c.kind.in_(kinds))
        if before is not None:
            query = query.where(jobs.c.created < before)
        with self._db.read() as connection:
            return [job_row(row) for row in connection.execute(query).mappings()]

    def running(self, lane: str | None = None) -> Rows:
        """Return the jobs that a worker holds, newest first."""
        return [job for job in self.list(states=HELD) if lane in (None, job.lane)]

    def count_running(self) -> int:
        """Return how many jobs workers hold."""
        with self._db.read() as connection:
            return int(connection.execute(_COUNT_HELD).scalar_one())

    def stale_queued(self, seconds: float) -> Rows:
        """Return jobs that have waited this long: their bell may have been lost."""
        old = (jobs.c.state == "queued") & (jobs.c.created < self._db.now - seconds)
        with self._db.read() as connection:
            return [job_row(row) for row in connection.execute(select(jobs).where(old)).mappings()]

    def claim(
        self,
        lane: str,
        worker_id: str,
        device: str,
        place: Place | None = None,
        only_short: bool = False,
        most_running: int = 0,
        others: Sequence[Place] = (),
    ) -> JobRow | None:
        """Take the job that is next in the line of a lane (lab/core/line.py), by compare-and-swap.

        Args:
            lane: whose jobs.
            worker_id: who takes it.
            device: what it will run on, in words.
            place: the device that it must fit on, and that it holds from now on; None asks for none.
            only_short: takes short jobs only.
            most_running: of one owner in the lane at a time; 0 sets no limit.
            others: further devices of the caller's, for a job that wants several: it gets all or none.

        Returns:
            The job, now running and held by the caller's lease; None when nothing waits.
        """
        following = next_in_line(lane, only_short=only_short, most_running=most_running)
        with self._db.write() as connection:
            offer = Offer.of(connection, self._db.now, place, others, lane) if place else None
            found = self._first_that_fits(connection, following, offer)
            if found is None:
                return None
            job_id, attempt = found[:2]
            started = state_event("running", attempt + 1, device=device)
            values = {
                "attempt": attempt + 1,
                "worker_id": worker_id,
                "device": device,
                "lease_until": self._leased,
                "started": self._begun,
                "waits_for": "",
            }
            try:
                row = move(
                    connection,
                    self._db.now,
                    job_id,
                    QUEUED,
                    "running",
                    [started],
                    attempt=attempt,
                    values=values,
                )
            except Fenced:
                return None  # another worker was faster; its bell or the reaper's rings again
            if offer is not None:
                take_hold(connection, self._db.now, row, offer.chosen(row.need_bytes, row.devices))
            return row

    def _first_that_fits(
        self, connection: Connection, following: Select[Any], offer: Offer | None
    ) -> Sequence[Any] | None:
        """Return id, attempt, need and devices of the first job that fits beside what runs on a device."""
        if offer is None:
            return connection.execute(following).first()
        fitting = that_fits(following, 1 + len(offer.others))
        found = connection.execute(fitting, offer.rooms).first()
        if found is None:
            tell_what_they_wait_for(connection, self._db.now, offer)
            return None
        need, places = found[2], offer.chosen(found[2], found[3])
        fits = not need or still_fits(connection, self._db.now, places, offer.lane, need)
        return found if fits else None

    def heartbeat(self, job_id: str, attempt: int) -> JobRow:
        """Extend the lease of a held job and return its row (its state says whether to cancel).

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        return self._touch(job_id, attempt, lease_until=self._leased)

    def name_device(self, job_id: str, attempt: int, device: str) -> JobRow:
        """Record in words what a running attempt computes on.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        return self._touch(job_id, attempt, device=device)

    def append(self, job_id: str, attempt: int, told: Sequence[NewEvent]) -> int:
        """Write events of a held job, without a gap, all or none.

        Returns:
            The sequence number of the last one.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        values = progress_values(told)
        statement = _reserving(tuple(values))
        given = {"of_job": job_id, "of_attempt": attempt, "told": len(told)}
        with self._db.write() as connection:
            last = connection.execute(
                statement, {**given, **{f"new_{name}": value for name, value in values.items()}}
            ).scalar()
            if last is None:
                raise Fenced(f"Attempt {attempt} no longer owns job {job_id}.")
            insert_events(connection, job_id, last - len(told), told, self._db.now)
            return int(last)

    def succeed(self, job_id: str, attempt: int, success: Success) -> JobRow:
        """End a held job well and list what it made, in one transaction.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
            Conflict: a model of that name was listed meanwhile.
        """
        why = "stopped early; what there was is kept" if success.stopped_early else ""
        told = [NewEvent("artifact", {"model": model.name}) for model in success.models]
        told.append(NewEvent("state", {"state": "succeeded", "attempt": attempt, "why": why}))
        values = {
            "result": dict(success.summary),
            "stopped_early": success.stopped_early,
            "progress": 1.0,
            "seconds_left": None,
        }
        with self._db.write() as connection:
            row = move(
                connection,
                self._db.now,
                job_id,
                HELD,
                "succeeded",
                told,
                attempt=attempt,
                values=values,
            )
            list_models(connection, self._db.now, success.models)
            list_scores(connection, self._db.now, job_id, success.scores)
            return row

    def fail(
        self,
        job_id: str,
        attempt: int,
        code: str,
        text: str,
        at_field: str | None = None,
        last_words: LastWords = UNHEARD,
    ) -> JobRow:
        """End a held job badly, with the reason its owner will read.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        with self._db.write() as connection:
            ending = (code, text, at_field)
            return fail(connection, self._db.now, job_id, HELD, attempt, ending, last_words=last_words)

    def cancelled(self, job_id: str, attempt: int) -> JobRow:
        """Confirm that a cancelling job has ended.

        Raises:
            Fenced: another attempt owns the job, or nobody asked to cancel it.
        """
        told = [NewEvent("state", {"state": "cancelled", "attempt": attempt, "why": ""})]
        with self._db.write() as connection:
            return move(connection, self._db.now, job_id, CANCELLING, "cancelled", told, attempt=attempt)

    def request_cancel(self, job_id: str) -> JobRow:
        """Ask for a job to end. Twice is the same as once; an ended job stays as it is."""
        with self._db.write() as connection:
            row = held_row(connection, job_id)
            to = CANCELS.get(row["state"]) if row else None
            if row and to:
                told = {"state": to, "attempt": row["attempt"], "why": "cancelled by its owner"}
                return move(connection, self._db.now, job_id, (row["state"],), to, [NewEvent("state", told)])
        return self.get(job_id)

    def request_stop(self, job_id: str) -> JobRow:
        """Ask a running job to keep what it has and end well; the job reads the flag at its next step."""
        with self._db.write() as connection:
            connection.execute(
                update(jobs)
                .where((jobs.c.id == job_id) & (jobs.c.state == "running"))
                .values(stop_requested=True)
            )
        return self.get(job_id)

    def forget(self, job_id: str) -> None:
        """Delete an ended job and all that it said; one that has not ended stays."""
        with self._db.write() as connection:
            ended = select(jobs.c.id).where((jobs.c.id == job_id) & jobs.c.state.in_(TERMINAL))
            if connection.execute(ended).first():
                connection.execute(delete(events).where(events.c.job_id == job_id))
                connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def _touch(self, job_id: str, attempt: int, **values: Any) -> JobRow:
        mine = (jobs.c.id == job_id) & (jobs.c.attempt == attempt) & is_one_of(HELD)
        with self._db.write() as connection:
            row = (
                connection.execute(update(jobs).where(mine).values(values).returning(jobs)).mappings().first()
            )
        if row is None:
            raise Fenced(f"Attempt {attempt} no longer owns job {job_id}.")
        return job_row(row)
