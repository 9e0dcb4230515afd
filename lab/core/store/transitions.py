"""How a job's row changes: one function for every change of state, with its events and its fence."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    bindparam,
    delete,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

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

_FIELDS = tuple(JobRow.__dataclass_fields__)
_HELD_ROW = select(jobs).where(jobs.c.id == bindparam("of_job")).with_for_update()
_DROP_CLAIMS = delete(claims).where(claims.c.job_id == bindparam("of_job"))


def job_row(row: RowMapping) -> JobRow:
    """Read one row of the jobs table."""
    return JobRow(**{name: row[name] for name in _FIELDS})


def held_row(connection: Connection, job_id: str) -> RowMapping | None:
    """Read a job's row and keep it from changing until the caller's transaction ends."""
    return connection.execute(_HELD_ROW, {"of_job": job_id}).mappings().first()


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
    statement, plain = _move_statement(now, tuple(sources), to, attempt is not None, values or {})
    owner = {} if attempt is None else {"of_attempt": attempt}
    row = (
        connection.execute(statement, {"of_job": job_id, "told": len(told), **owner, **plain})
        .mappings()
        .first()
    )
    if row is None:
        raise Fenced(f"Job {job_id} is not {' or '.join(sources)} in this attempt.")
    insert_events(connection, job_id, row["last_seq"] - len(told), told, now)
    if to not in HELD and tuple(sources) != QUEUED:
        drop_hold(connection, job_id)
    if to in TERMINAL:
        connection.execute(_DROP_CLAIMS, {"of_job": job_id})
    return job_row(row)


def _move_statement(
    now: Now, sources: tuple[State, ...], to: State, owned: bool, values: Mapping[str, Any]
) -> tuple[ReturningUpdate[Any], dict[str, Any]]:
    """Return the statement of a change of state, and the values to give it besides its keys.

    Values that are SQL have to be the same objects each time: statements are built once, for that takes
    longer than to run them.
    """
    in_sql = {name: value for name, value in values.items() if isinstance(value, ColumnElement)}
    plain = {name: value for name, value in values.items() if name not in in_sql}
    built = _built_move(now, sources, to, owned, tuple(plain), tuple(in_sql.items()))
    return built, {f"new_{name}": value for name, value in plain.items()}


@lru_cache(maxsize=256)
def _built_move(
    now: Now,
    sources: tuple[State, ...],
    to: State,
    owned: bool,
    plain: tuple[str, ...],
    in_sql: tuple[tuple[str, ColumnElement[Any]], ...],
) -> ReturningUpdate[Any]:
    condition = (jobs.c.id == bindparam("of_job")) & is_one_of(sources)
    if owned:
        condition &= jobs.c.attempt == bindparam("of_attempt")
    ending = {"finished": now, "lease_until": null()} if to in TERMINAL else {}
    given = {name: bindparam(f"new_{name}", type_=jobs.c[name].type) for name in plain}
    change = {"state": to, "last_seq": jobs.c.last_seq + bindparam("told"), **ending, **given, **dict(in_sql)}
    return update(jobs).where(condition).values(change).returning(jobs)


def is_one_of(states: Collection[State]) -> ColumnElement[bool]:
    """Return the condition that a job is in one of some states: for so few it is cheaper than IN."""
    return or_(*(jobs.c.state == state for state in states))


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
