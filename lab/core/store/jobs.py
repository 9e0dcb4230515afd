"""The state machine of jobs: six states, ten legal transitions, one live attempt.

Every change of state writes its event in the same transaction. Every write of a running job
carries its attempt; a write of an attempt that is no longer the job's own is refused (Fenced).
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from lab.core.errors import Fenced, NotFound
from lab.core.events import NewEvent
from lab.core.lastwords import UNHEARD, LastWords
from lab.core.store.database import Database
from lab.core.store.events import insert_events, progress_values
from lab.core.store.queueing import NewJob, insert_job, job_with_key, promise_names
from lab.core.store.rows import TERMINAL, JobRow, State
from lab.core.store.schema import events, jobs
from lab.core.store.success import Success, list_models, list_scores
from lab.core.store.transitions import (
    CANCELLING,
    HELD,
    QUEUED,
    RUNNING,
    fail,
    held_row,
    job_row,
    move,
    state_event,
)

LEASE_SECONDS = 15.0
MOST_CRASHES = 3

Rows = list[JobRow]

CANCELS: dict[State, State] = {"queued": "cancelled", "running": "cancelling"}


class Jobs:
    """The table of jobs.

    Args:
        database: where it lives.
        lease_seconds: how long a claim holds without a heartbeat.
    """

    def __init__(self, database: Database, lease_seconds: float = LEASE_SECONDS) -> None:
        self._db = database
        self._lease = lease_seconds

    def insert(self, new: NewJob) -> tuple[JobRow, bool]:
        """Queue a job, once per owner and key.

        Returns:
            The job, and whether it is new.

        Raises:
            Conflict: the key was used for another spec, or a model's name is taken or promised.
        """
        try:
            with self._db.write() as connection:
                earlier = job_with_key(connection, new)
                if earlier:
                    return earlier, False
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
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
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

    def stale_queued(self, seconds: float) -> Rows:
        """Return jobs that have waited this long: their bell may have been lost."""
        old = (jobs.c.state == "queued") & (jobs.c.created < self._db.now - seconds)
        with self._db.read() as connection:
            return [job_row(row) for row in connection.execute(select(jobs).where(old)).mappings()]

    def claim(self, lane: str, worker_id: str, device: str) -> JobRow | None:
        """Take the job that may run next in a lane, by compare-and-swap.

        Highest priority first, then the owner with the fewest running jobs, then the oldest.

        Returns:
            The job, now running and held by the caller's lease; None when nothing waits.
        """
        others = jobs.alias("others")
        busy = (
            select(func.count())
            .where((others.c.owner == jobs.c.owner) & others.c.state.in_(HELD) & (others.c.lane == lane))
            .scalar_subquery()
        )
        following = (
            select(jobs.c.id, jobs.c.attempt)
            .where((jobs.c.state == "queued") & (jobs.c.lane == lane))
            .order_by(jobs.c.priority.desc(), busy, jobs.c.created, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=jobs)  # on Postgres, each of many workers its own row
        )
        with self._db.write() as connection:
            found = connection.execute(following).first()
            if found is None:
                return None
            job_id, attempt = found
            started = state_event("running", attempt + 1, device=device)
            values = {
                "attempt": attempt + 1,
                "worker_id": worker_id,
                "device": device,
                "lease_until": self._db.now + self._lease,
                "started": func.coalesce(jobs.c.started, self._db.now),
            }
            try:
                return move(
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

    def heartbeat(self, job_id: str, attempt: int) -> JobRow:
        """Extend the lease of a held job and return its row (its state says whether to cancel).

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        return self._touch(job_id, attempt, lease_until=self._db.now + self._lease)

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
        values = {"last_seq": jobs.c.last_seq + len(told), **progress_values(told)}
        mine = (jobs.c.id == job_id) & (jobs.c.attempt == attempt) & jobs.c.state.in_(HELD)
        with self._db.write() as connection:
            last = connection.execute(
                update(jobs).where(mine).values(values).returning(jobs.c.last_seq)
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

    def release(self, job_id: str, attempt: int, why: str) -> JobRow:
        """Put a held job back into the queue on purpose, with no crash counted.

        A job being cancelled is cancelled instead; one that can't go on midway fails as interrupted.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        text = "The lab was shut down, and this job can't go on midway. Run it again."
        return self._give_up(job_id, attempt, why, crashes=0, ending=("interrupted", text))

    def crashed(
        self, job_id: str, attempt: int, why: str, code: str, text: str, last_words: LastWords = UNHEARD
    ) -> JobRow:
        """Record that the process of a held job died, and queue the job again where that makes sense.

        A job that can't go on where it was, or that has crashed three times, fails with code and text.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        return self._give_up(job_id, attempt, why, crashes=1, ending=(code, text), last_words=last_words)

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

    def reap(self, last_lines: Callable[[str, int], str] = lambda *_: "") -> Rows:
        """Give up held jobs whose lease has lapsed, by the database's clock.

        Args:
            last_lines: reads the end of an attempt's log, given the job and the attempt.

        Returns:
            Their rows: queued again, failed or cancelled.
        """
        lapsed = select(jobs.c.id, jobs.c.attempt).where(
            jobs.c.state.in_(HELD) & (jobs.c.lease_until < self._db.now)
        )
        with self._db.read() as connection:
            found = connection.execute(lapsed).all()
        reaped = []
        for job_id, attempt in found:
            text = "The worker that ran this job stopped answering and can't go on midway. Run the job again."
            why = "its worker stopped answering"
            try:
                words = LastWords(log=last_lines(job_id, attempt))
                ending = ("interrupted", text)
                reaped.append(self._give_up(job_id, attempt, why, 1, ending, lapsed=True, last_words=words))
            except Fenced:
                continue  # another host reaped it, its lease was renewed, or it ended meanwhile
        return reaped

    def _touch(self, job_id: str, attempt: int, **values: Any) -> JobRow:
        mine = (jobs.c.id == job_id) & (jobs.c.attempt == attempt) & jobs.c.state.in_(HELD)
        with self._db.write() as connection:
            row = (
                connection.execute(update(jobs).where(mine).values(values).returning(jobs)).mappings().first()
            )
        if row is None:
            raise Fenced(f"Attempt {attempt} no longer owns job {job_id}.")
        return job_row(row)

    def _give_up(
        self,
        job_id: str,
        attempt: int,
        why: str,
        crashes: int,
        ending: tuple[str, str],
        lapsed: bool = False,
        last_words: LastWords = UNHEARD,
    ) -> JobRow:
        """Queue a held job again; end it when it is being cancelled or can't go on (`ending` says why).

        Raises:
            Fenced: it is not held by this attempt, or only a `lapsed` lease was to be given up.
        """
        with self._db.write() as connection:
            row = held_row(connection, job_id)
            if row is None or row["attempt"] != attempt or row["state"] not in HELD:
                raise Fenced(f"Attempt {attempt} no longer owns job {job_id}.")
            if lapsed and row["lease_until"] >= connection.execute(select(self._db.now)).scalar_one():
                raise Fenced(f"The lease of job {job_id} was renewed.")
            if row["state"] == "cancelling":
                told = [NewEvent("state", {"state": "cancelled", "attempt": attempt, "why": why})]
                return move(connection, self._db.now, job_id, CANCELLING, "cancelled", told, attempt=attempt)
            count = row["crash_count"] + crashes
            why_not = _why_not_again(row, count, why, ending)
            if why_not:
                return fail(connection, self._db.now, job_id, RUNNING, attempt, *why_not, last_words)
            told = [state_event("queued", attempt, why, device=row["device"], **last_words.as_payload())]
            values = {"crash_count": count, "worker_id": None, "lease_until": None}
            return move(
                connection, self._db.now, job_id, RUNNING, "queued", told, attempt=attempt, values=values
            )


def _why_not_again(
    row: RowMapping, count: int, why: str, ending: tuple[str, str]
) -> tuple[tuple[str, str, None], dict[str, int]] | None:
    """Return how a given-up job fails, and what else changes in its row; None when it may run again."""
    if not row["resumable"]:
        return (*ending, None), {}
    if count < MOST_CRASHES:
        return None
    text = f"Its process died {count} times, last: {why}. Read its log, then run a changed recipe."
    return ("poison", text, None), {"crash_count": count}
