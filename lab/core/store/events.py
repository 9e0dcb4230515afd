"""The event log: rows (job, seq, time, kind, payload), seq without gaps within a job."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, insert, select

from lab.core.events import Event, NewEvent
from lab.core.store.database import Database
from lab.core.store.schema import events


class Events:
    """Reads the log. Writing goes through the jobs table, which owns the sequence and the fence."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def after(self, job_id: str, seq: int, limit: int = 5000) -> list[Event]:
        """Return the events of a job that come after a sequence number, in order."""
        return self._read((events.c.job_id == job_id) & (events.c.seq > seq), limit)

    def newest(self, job_id: str, limit: int) -> list[Event]:
        """Return the last of what a job told in words, in order: no piece of an answer and no figure."""
        is_words = events.c.kind.not_in(("delta", "metric", "figures"))
        last = select(events.c.seq).where((events.c.job_id == job_id) & is_words)
        last = last.order_by(events.c.seq.desc()).limit(limit)
        return self._read((events.c.job_id == job_id) & events.c.seq.in_(last), limit)

    def states(self, job_id: str, limit: int = 1000) -> list[Event]:
        """Return what a job told of its states, in order, however much else it said."""
        return self._read((events.c.job_id == job_id) & (events.c.kind == "state"), limit)

    def _read(self, which: ColumnElement[bool], limit: int) -> list[Event]:
        query = select(events).where(which).order_by(events.c.seq).limit(limit)
        with self._db.read() as connection:
            return [
                Event(kind=row["kind"], payload=row["payload"], seq=row["seq"], time=row["time"])
                for row in connection.execute(query).mappings()
            ]


def insert_events(
    connection: Connection, job_id: str, after_seq: int, new: Sequence[NewEvent], now: ColumnElement[float]
) -> None:
    """Write events whose places `after_seq + 1, ...` the caller has just reserved in this transaction."""
    rows = [
        {"job_id": job_id, "seq": seq, "kind": event.kind, "payload": event.payload}
        for seq, event in enumerate(new, start=after_seq + 1)
    ]
    if rows:
        connection.execute(_insert_at(now), rows)


@lru_cache(maxsize=64)
def _insert_at(now: ColumnElement[float]) -> Insert:
    return insert(events).values(time=now)


def progress_values(new: Sequence[NewEvent]) -> dict[str, Any]:
    """Return what the newest progress event among these changes in the job's row."""
    told = [event.payload for event in new if event.kind == "progress"]
    if not told:
        return {}
    last = told[-1]
    return {
        "progress": last["fraction"],
        "progress_words": last.get("words", ""),
        "seconds_left": last.get("seconds_left"),
    }
