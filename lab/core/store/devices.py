"""Which running attempt holds which device, and how much of its memory.

A hold is taken in the transaction of the claim, with the attempt as its fence. Its lease is the job's
own: whoever ends or takes away the attempt (its child, its supervisor, the reaper of any host) drops the
hold in the same transaction, so that none is ever left behind.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Insert,
    Select,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from lab.core.store.database import Database
from lab.core.store.engines import upsert
from lab.core.store.rows import DeviceRow, HoldRow, JobRow
from lab.core.store.schema import devices, holds, jobs

ALIVE_SECONDS = 15.0
KNOWN_SECONDS = 24 * 3600.0
"""A device unheard of for so long is no reason any more to let a large job wait."""

REST_SECONDS = 60.0
"""A device that failed is left alone so long; the next job on it is the probe."""

CHAT_SHARE = 0.1
"""Of a device's memory, so much is never denied to the chat: no question waits for the end of a training."""


_DROP = delete(holds).where(holds.c.job_id == bindparam("of_job"))

BOUNDLESS = 1 << 62
KEPT_WORDS = "loaded models"
"""How a waiting job's words name the memory that the chat can give back."""


@dataclass(frozen=True)
class Place:
    """One device as the store knows it: the host's name, and what the host calls the device."""

    host: str
    device: str


class Devices:
    """The table of devices and of the holds on them.

    Args:
        database: where it lives.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(self, place: Place, words: str, total_bytes: int) -> None:
        """Say that a device is there, what it is and how much memory jobs may have of it."""
        values = {"words": words, "total_bytes": total_bytes, "seen": self._db.now}
        row = upsert(self._db.engine.dialect.name, devices, host=place.host, name=place.device, **values)
        with self._db.write() as connection:
            connection.execute(row)

    def keep(self, place: Place, kept_bytes: int, words: str) -> bool:
        """Say what the chat keeps loaded on a device between two answers; it counts for a few seconds.

        Returns:
            Whether a job waits for that memory.
        """
        values = {
            "kept_bytes": kept_bytes,
            "kept_words": words,
            "kept_until": self._db.now + ALIVE_SECONDS if kept_bytes else None,
        }
        waits = (jobs.c.state == "queued") & jobs.c.waits_for.contains(KEPT_WORDS)
        with self._db.write() as connection:
            connection.execute(update(devices).where(_is(place)).values(values))
            return bool(kept_bytes) and connection.execute(select(jobs.c.id).where(waits)).first() is not None

    def rest(self, place: Place) -> None:
        """Leave a device alone for a while: it does not answer."""
        rest = {"rests_until": self._db.now + REST_SECONDS}
        with self._db.write() as connection:
            connection.execute(update(devices).where(_is(place)).values(rest))

    def rests(self, place: Place) -> bool:
        """Whether a device is left alone now."""
        query = select(devices.c.name).where(_is(place) & (devices.c.rests_until > self._db.now))
        with self._db.read() as connection:
            return connection.execute(query).first() is not None

    def holds(self) -> list[HoldRow]:
        """Return who holds what now, with the lease of each."""
        query = select(holds, jobs.c.lease_until).join(jobs, jobs.c.id == holds.c.job_id)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(holds.c.since)).mappings()
            return [HoldRow(**row) for row in rows]

    def held_by(self, job_id: str) -> tuple[str, ...]:
        """Return the names of the devices that a job holds, on the host that runs it."""
        query = select(holds.c.device).where(holds.c.job_id == job_id).order_by(holds.c.device)
        with self._db.read() as connection:
            return tuple(connection.execute(query).scalars())

    def together(self) -> int:
        """Return how many devices one job may have at once: those of the host that has the most of them.

        A worker's devices count while it is there: 1 when no worker has told of any.
        """
        hosts = Counter(row.host for row in self.list() if row.is_alive)
        return max(hosts.values(), default=1)

    def largest(self) -> DeviceRow | None:
        """Return the device with the most memory; None when no worker has told of any."""
        return max(self.list(), key=lambda row: row.total_bytes, default=None)

    def list(self) -> list[DeviceRow]:
        """Return the devices heard of within the last day; `is_alive` says which are there now."""
        with self._db.read() as connection:
            return known_devices(connection, self._db.now)


def room_on(connection: Connection, now: ColumnElement[float], place: Place, lane: str) -> int:
    """Return how much of a device's memory a job of a lane may still take, in bytes; -1 while it rests.

    What the chat keeps loaded is in the way of other lanes only: its own jobs make room there. A question
    that has the device to itself is never kept waiting: the chat has no other, and its engine says in words
    what is too large.
    """
    found = connection.execute(_state_of(now), {"on_host": place.host, "on_device": place.device}).first()
    if found is None or found[1]:
        return -1
    total, chats, others = int(found[0]), int(found[3]), int(found[4])
    if lane == "chat" and not chats + others:
        return BOUNDLESS
    if lane == "chat":
        return max(total - others - chats, int(CHAT_SHARE * total) - chats, 0)
    return max(total - others - max(chats, int(found[2])), 0)


@lru_cache(maxsize=64)
def _state_of(now: ColumnElement[float]) -> Select[Any]:
    """Select of one device: memory, whether it rests, what the chat keeps, what chats and others hold."""
    host: BindParameter[str] = bindparam("on_host")
    device: BindParameter[str] = bindparam("on_device")

    def held(by_chat: bool) -> ColumnElement[int]:
        whose = holds.c.lane == "chat" if by_chat else holds.c.lane != "chat"
        mine = (holds.c.host == host) & (holds.c.device == device) & whose
        return func.coalesce(select(func.sum(holds.c.bytes)).where(mine).scalar_subquery(), 0)

    kept = case((devices.c.kept_until > now, devices.c.kept_bytes), else_=0)
    rests = case((devices.c.rests_until > now, 1), else_=0)
    return select(devices.c.total_bytes, rests, kept, held(by_chat=True), held(by_chat=False)).where(
        (devices.c.host == host) & (devices.c.name == device)
    )


def still_fits(
    connection: Connection, now: ColumnElement[float], places: Collection[Place], lane: str, need_bytes: int
) -> bool:
    """Keep others from taking a hold on these devices until the transaction ends, and look once more.

    SQLite has one writer at a time: what was just read still holds. The devices are locked in the order of
    their names, so that two claims never wait for each other.
    """
    if connection.dialect.name == "sqlite":
        return True
    mine = or_(*(_is(place) for place in places))
    connection.execute(
        select(devices.c.name).where(mine).order_by(devices.c.host, devices.c.name).with_for_update()
    )
    return all(need_bytes <= room_on(connection, now, place, lane) for place in places)


def take_hold(
    connection: Connection, now: ColumnElement[float], row: JobRow, places: Collection[Place]
) -> None:
    """Write down that a job which was just claimed holds its share of each of its devices."""
    hold = {"job_id": row.id, "attempt": row.attempt, "lane": row.lane, "bytes": row.need_bytes}
    rows = [{**hold, "host": place.host, "device": place.device} for place in places]
    connection.execute(_hold_at(now), rows)


@lru_cache(maxsize=64)
def _hold_at(now: ColumnElement[float]) -> Insert:
    return insert(holds).values(since=now)


def drop_hold(connection: Connection, job_id: str) -> None:
    """Take a job's holds away: the attempt that it was taken for is over."""
    connection.execute(_DROP, {"of_job": job_id})


def lay_to_rest(connection: Connection, now: ColumnElement[float], job_id: str) -> None:
    """Leave the device that a job holds alone for a while: it has failed under it."""
    held = select(holds.c.host, holds.c.device).where(holds.c.job_id == job_id)
    for host, device in connection.execute(held).all():
        rest = {"rests_until": now + REST_SECONDS}
        connection.execute(update(devices).where(_is(Place(host, device))).values(rest))


def known_devices(connection: Connection, now: ColumnElement[float]) -> list[DeviceRow]:
    """Return the devices heard of within the last day."""
    return [
        DeviceRow(**{**row, "rests": bool(row["rests"]), "is_alive": bool(row["is_alive"])})
        for row in connection.execute(_known(now)).mappings()
    ]


def _is(place: Place) -> ColumnElement[bool]:
    return (devices.c.host == place.host) & (devices.c.name == place.device)


def _known(now: ColumnElement[float]) -> Select[Any]:
    columns = [
        devices.c[name]
        for name in DeviceRow.__dataclass_fields__
        if name not in ("rests", "is_alive", "kept_bytes")
    ]
    return (
        select(
            *columns,
            case((devices.c.kept_until > now, devices.c.kept_bytes), else_=0).label("kept_bytes"),
            case((devices.c.rests_until > now, True), else_=False).label("rests"),
            (devices.c.seen > now - ALIVE_SECONDS).label("is_alive"),
        )
        .where(devices.c.seen > now - KNOWN_SECONDS)
        .order_by(devices.c.host, devices.c.name)
    )
