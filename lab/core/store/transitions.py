"""How a job's row changes: one function for every change of state, with its events and its fence."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, update

from lab.core.errors import Fenced, IllegalTransition
from lab.core.events import NewEvent
from lab.core.lastwords import UNHEARD, LastWords
from lab.core.store.devices import drop_hold
from lab.core.store.events import insert_events
from lab.core.store.rows import LEGAL, TERMINAL, JobRow, State
from lab.core.store.schema import claims, jobs

Now = ColumnElement[float]

QUEUED: tuple[State, ...] = ("queued",)
RUNNING: tuple[State, ...] = ("running",)
CANCELLING: tuple[State, ...] = ("cancelling",)
HELD = RUNNING + CANCELLING


def job_row(row: RowMapping) -> JobRow:
    """Read one row of the jobs table."""
    return JobRow(**{name: row[name] for name in JobRow.__dataclass_fields__})


def held_row(connection: Connection, job_id: str) -> RowMapping | None:
    """Read a job's row and keep it from changing until the caller's transaction ends."""
    mine = select(jobs).where(jobs.c.id == job_id).with_for_update()
    return connection.execute(mine).mappings().first()


def state_event(state: State, attempt: int, why: str = "", **more: str) -> NewEvent:
    """Make the event that goes with a change of state; core/events says what `more` may be."""
    return NewEvent("state", {"state": state, "attempt": attempt, "why": why, **more})


def move(
    connection: Connection,
    now: Now,
    job_id: str,
    sources: Collection[State],
    to: State,
    told: Sequence[NewEvent],
    *,
    attempt: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> JobRow:
    """Change the state of one job and tell it, in the caller's transaction.

    Args:
        connection: a writing transaction.
        now: the database's clock.
        job_id: which job.
        sources: the states it may be in.
        to: the state it gets.
        told: the events that go with it.
        attempt: the attempt that must own it, where one must.
        values: other columns to set.

    Raises:
        IllegalTransition: a source has no legal way to the target.
        Fenced: the job is in none of the sources, or another attempt owns it.
    """
    illegal = [state for state in sources if (state, to) not in LEGAL]
    if illegal:
        raise IllegalTransition(f"A job can't go from {illegal[0]} to {to}.")
    condition = (jobs.c.id == job_id) & jobs.c.state.in_(sources)
    if attempt is not None:
        condition &= jobs.c.attempt == attempt
    ending = {"finished": now, "lease_until": None} if to in TERMINAL else {}
    change = {"state": to, "last_seq": jobs.c.last_seq + len(told), **ending, **(values or {})}
    row = connection.execute(update(jobs).where(condition).values(change).returning(jobs)).mappings().first()
    if row is None:
        raise Fenced(f"Job {job_id} is not {' or '.join(sources)} in this attempt.")
    insert_events(connection, job_id, row["last_seq"] - len(told), told, now)
    if to not in HELD and tuple(sources) != QUEUED:
        drop_hold(connection, job_id)
    if to in TERMINAL:
        connection.execute(delete(claims).where(claims.c.job_id == job_id))
    return job_row(row)


def fail(
    connection: Connection,
    now: Now,
    job_id: str,
    sources: Collection[State],
    attempt: int,
    ending: tuple[str, str, str | None],
    values: Mapping[str, Any] | None = None,
    last_words: LastWords = UNHEARD,
) -> JobRow:
    """End a job badly; `ending` is code, text and the field at fault, if any."""
    code, text, at_field = ending
    told = [
        NewEvent("failure", {"code": code, "text": text, "field": at_field}),
        state_event("failed", attempt, code, **last_words.as_payload()),
    ]
    return move(
        connection,
        now,
        job_id,
        sources,
        "failed",
        told,
        attempt=attempt,
        values={"error_code": code, "error_text": text, **(values or {})},
    )
