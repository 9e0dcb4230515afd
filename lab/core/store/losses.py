"""What becomes of a running job whose attempt was lost: queued again, failed, or cancelled as was asked."""

from collections.abc import Callable

from sqlalchemy import select

from lab.core.errors import Fenced
from lab.core.events import NewEvent
from lab.core.lastwords import UNHEARD, LastWords
from lab.core.store.database import Database
from lab.core.store.devices import lay_to_rest
from lab.core.store.rows import JobRow
from lab.core.store.schema import jobs
from lab.core.store.second_chances import DEVICE, Loss, changes_for_another, verdict_on
from lab.core.store.transitions import CANCELLING, HELD, RUNNING, fail, held_row, move, state_event


class Losses:
    """The part of the table of jobs that gives up attempts.

    Args:
        database: where it lives.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def release(self, job_id: str, attempt: int, why: str) -> JobRow:
        """Put a held job back into the queue on purpose, with no crash counted.

        A job being cancelled is cancelled instead; one that can't go on midway fails as interrupted.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        text = "The lab was shut down, and this job can't go on midway. Run it again."
        return self.give_up(job_id, attempt, Loss(why, "interrupted", text, crashes=0))

    def crashed(
        self, job_id: str, attempt: int, why: str, code: str, text: str, last_words: LastWords = UNHEARD
    ) -> JobRow:
        """Record that the process of a held job died, and queue the job again where that makes sense.

        A job that can't go on where it was, or that has crashed three times, fails with code and text.

        Raises:
            Fenced: another attempt owns the job, or it has ended.
        """
        return self.give_up(job_id, attempt, Loss(why, code, text, last_words=last_words))

    def reap(self, last_lines: Callable[[str, int], str] = lambda *_: "") -> list[JobRow]:
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
            try:
                words = LastWords(log=last_lines(job_id, attempt))
                loss = Loss("its worker stopped answering", "interrupted", text, last_words=words)
                reaped.append(self.give_up(job_id, attempt, loss, lapsed=True))
            except Fenced:
                continue  # another host reaped it, its lease was renewed, or it ended meanwhile
        return reaped

    def give_up(self, job_id: str, attempt: int, loss: Loss, *, lapsed: bool = False) -> JobRow:
        """Queue a held job again; end it when it is being cancelled or gets no other attempt.

        Args:
            job_id: which job.
            attempt: the attempt that was lost.
            loss: how.
            lapsed: whether only an attempt whose lease has lapsed is to be given up.

        Raises:
            Fenced: it is not held by this attempt, or only a lapsed lease was to be given up.
        """
        now = self._db.now
        with self._db.write() as connection:
            row = held_row(connection, job_id)
            if row is None or row["attempt"] != attempt or row["state"] not in HELD:
                raise Fenced(f"Attempt {attempt} no longer owns job {job_id}.")
            if lapsed and row["lease_until"] >= connection.execute(select(now)).scalar_one():
                raise Fenced(f"The lease of job {job_id} was renewed.")
            if loss.code == DEVICE:
                lay_to_rest(connection, now, job_id)
            if row["state"] == "cancelling":
                told = [NewEvent("state", {"state": "cancelled", "attempt": attempt, "why": loss.why})]
                return move(connection, now, job_id, CANCELLING, "cancelled", told, attempt=attempt)
            verdict = verdict_on(row, loss)
            if verdict:
                return fail(connection, now, job_id, RUNNING, attempt, *verdict, loss.last_words)
            more = loss.last_words.as_payload()
            told = [state_event("queued", attempt, loss.why, device=row["device"], **more)]
            values = changes_for_another(row, loss)
            return move(connection, now, job_id, RUNNING, "queued", told, attempt=attempt, values=values)
