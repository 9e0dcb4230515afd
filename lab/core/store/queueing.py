"""How a job's row begins: once for each owner and key, with its names promised to it alone."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.sql.dml import ReturningInsert

from lab.core.errors import Conflict
from lab.core.events import NewEvent
from lab.core.need import UNKNOWN, Need
from lab.core.store.events import insert_events
from lab.core.store.rows import JobRow
from lab.core.store.schema import claims, jobs, models
from lab.core.store.transitions import Now, job_row


@dataclass(frozen=True)
class NewJob:
    """What is needed to queue a job. `promises` are the names of the models it will publish."""

    owner: str
    key: str
    kind: str
    lane: str
    title: str
    spec: Mapping[str, Any]
    spec_sha256: str
    resumable: bool
    promises: tuple[str, ...] = ()
    priority: int = 0
    parent_id: str | None = None
    expected_seconds: float | None = None
    is_short: bool = False
    need: Need = UNKNOWN


_WITH_KEY = select(jobs).where(
    (jobs.c.owner == bindparam("of_owner")) & (jobs.c.idem_key == bindparam("with_key"))
)


@lru_cache(maxsize=64)
def _insert_at(now: Now) -> ReturningInsert[Any]:
    return insert(jobs).values(created=now, turn=now).returning(jobs)


def job_with_key(connection: Connection, new: NewJob) -> JobRow | None:
    """Return the job that was queued with this owner and key.

    Raises:
        Conflict: the key was used for another spec.
    """
    row = connection.execute(_WITH_KEY, {"of_owner": new.owner, "with_key": new.key}).mappings().first()
    if row is None:
        return None
    if row["spec_sha256"] != new.spec_sha256:
        raise Conflict(
            f"The key {new.key[:40]!r} was used for another job.",
            "A key names one recipe.",
            "Submit again with a new key.",
        )
    return job_row(row)


def promise_names(connection: Connection, new: NewJob) -> None:
    """Check that no other model or job has the names that this job will publish.

    Promises are read first: a job that ends in between drops its promise and lists its model at once.

    Raises:
        Conflict: one of them is taken or promised.
    """
    for name in new.promises:
        if connection.execute(select(claims.c.job_id).where(claims.c.name == name)).first():
            raise _taken(f"A job is already making {name!r}.")
        _refuse_listed(connection, name)


def _refuse_listed(connection: Connection, name: str) -> None:
    if connection.execute(select(models.c.name).where(models.c.name == name)).first():
        raise _taken(f"There is already a model named {name!r}.")


def _taken(saw: str) -> Conflict:
    return Conflict(saw, "Names are used once.", "Choose another name.", field="name")


def insert_job(connection: Connection, now: Now, new: NewJob) -> JobRow:
    """Write the row, its first event and its claims on names.

    Raises:
        Conflict: a model of such a name was listed since they were looked up.
        IntegrityError: another transaction has just used the key or claimed a name.
    """
    values = {
        "id": uuid.uuid4().hex,
        "owner": new.owner,
        "idem_key": new.key,
        "kind": new.kind,
        "lane": new.lane,
        "title": new.title,
        "spec": dict(new.spec),
        "spec_sha256": new.spec_sha256,
        "state": "queued",
        "attempt": 0,
        "crash_count": 0,
        "priority": new.priority,
        "resumable": new.resumable,
        "stop_requested": False,
        "stopped_early": False,
        "parent_id": new.parent_id,
        "device": "",
        "last_seq": 1,
        "progress": 0.0,
        "progress_words": "",
        "expected_seconds": new.expected_seconds,
        "is_short": new.is_short,
        "result": {},
        "need": new.need.as_json(),
        "need_bytes": new.need.memory_bytes,
        "devices": new.need.devices,
    }
    row = connection.execute(_insert_at(now), values).mappings().one()
    queued = NewEvent("state", {"state": "queued", "attempt": 0, "why": ""})
    insert_events(connection, row["id"], 0, [queued], now)
    for name in new.promises:
        connection.execute(insert(claims).values(name=name, job_id=row["id"]))
        _refuse_listed(connection, name)  # now that the name is ours, nobody else can list it
    return job_row(row)
