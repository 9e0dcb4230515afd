"""What a finished job hands over, and how it is listed with the job's last change of state."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select

from lab.core.errors import Conflict
from lab.core.store.engines import upsert
from lab.core.store.rows import ModelRow
from lab.core.store.schema import models, scores
from lab.core.store.transitions import Now


@dataclass(frozen=True)
class Success:
    """What a finished job hands over: its summary, and rows to list with it, all or none."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    models: Sequence[ModelRow] = ()
    scores: Sequence[Mapping[str, Any]] = ()
    stopped_early: bool = False


def list_models(connection: Connection, now: Now, rows: Iterable[ModelRow]) -> None:
    """List the models that a job published.

    Raises:
        Conflict: a model of that name was listed meanwhile.
    """
    for row in rows:
        listed = connection.execute(select(models.c.job_id).where(models.c.name == row.name)).first()
        if listed:
            raise Conflict(
                f"There is already a model named {row.name!r}.",
                "Names are used once.",
                "Choose another name.",
            )
        values = {**vars(row), "parents": list(row.parents), "created": now}
        connection.execute(insert(models).values(values))


def list_scores(connection: Connection, now: Now, job_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put the figures that a job measured in the place of older ones.

    In the order of their keys, so that two jobs that measured the same wait for each other in one
    direction only.
    """
    for row in sorted(rows, key=lambda row: (row["model"], row["metric"], row["data"])):
        connection.execute(upsert(connection.dialect.name, scores, job_id=job_id, created=now, **row))
