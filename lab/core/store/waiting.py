"""Says of queued jobs what keeps them from starting, and refuses those that no device can ever hold."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, RowMapping, select, update

from lab.core.need import Need
from lab.core.store.devices import KEPT_WORDS, Place, known_devices
from lab.core.store.offers import Offer
from lab.core.store.rows import DeviceRow
from lab.core.store.schema import holds, jobs
from lab.core.store.transitions import QUEUED, fail

_TOLD = ("id", "attempt", "owner", "need", "need_bytes", "devices", "waits_for")

MOST_TOLD = 50
"""So many waiting jobs are looked at in one go: what a page shows of a queue."""


def tell_what_they_wait_for(connection: Connection, now: ColumnElement[float], offer: Offer) -> None:
    """Write into the jobs that don't fit beside what runs on a device what they wait for.

    One that needs more than the largest device of the lab has ends here, with what would make it fit.

    Args:
        connection: a writing transaction that found no job to claim.
        now: the database's clock.
        offer: what they were offered, which was not enough.
    """
    waiting = connection.execute(
        select(*(jobs.c[name] for name in _TOLD))
        .where((jobs.c.state == "queued") & (jobs.c.lane == offer.lane) & ~offer.is_enough)
        .order_by(jobs.c.created)
        .limit(MOST_TOLD)
        .with_for_update(skip_locked=True),
        offer.rooms,
    ).mappings()
    rows = waiting.all()
    if not rows:
        return
    known, place = known_devices(connection, now), offer.place
    device = next((one for one in known if (one.host, one.name) == (place.host, place.device)), None)
    largest = max(known, key=lambda one: one.total_bytes, default=None)
    others = _holders(connection, place)
    for row in rows:
        if largest is not None and row["need_bytes"] > largest.total_bytes:
            _refuse(connection, now, row, largest)
        elif device is not None and (words := _words(row, device, others)) != row["waits_for"]:
            connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(waits_for=words))


def _holders(connection: Connection, place: Place) -> Sequence[RowMapping]:
    here = (holds.c.host == place.host) & (holds.c.device == place.device) & (holds.c.bytes > 0)
    held = select(holds.c.bytes, jobs.c.owner, jobs.c.title, jobs.c.kind).join(
        jobs, jobs.c.id == holds.c.job_id
    )
    return connection.execute(held.where(here).order_by(holds.c.since)).mappings().all()


def _words(row: RowMapping, device: DeviceRow, others: Sequence[RowMapping]) -> str:
    """Say what a job waits for; of another person's job no more than its kind."""
    if row["devices"] > 1:
        each = f" with {_size(row['need_bytes'])} free on each" if row["need_bytes"] else ""
        return f"waits for {row['devices']} devices of one host at once{each}"
    if device.rests:
        return f"waits for {device.short}, which failed and is tried again within a minute"
    held = [f"{_size(one['bytes'])} by {_name_to(row, one)}" for one in others]
    if device.kept_bytes:
        held.append(f"{_size(device.kept_bytes)} by the chat's {KEPT_WORDS}")
    by = f", held: {', '.join(held)}" if held else ""
    return f"waits for {_size(row['need_bytes'])} on {device.short}{by}"


def _name_to(row: RowMapping, other: RowMapping) -> str:
    return str(other["title"]) if other["owner"] == row["owner"] else f"another {other['kind']} job"


def _refuse(connection: Connection, now: ColumnElement[float], row: RowMapping, largest: DeviceRow) -> None:
    refusal = Need.from_json(row["need"]).too_large_for(
        largest.total_bytes, f"The largest device of the lab, {largest.short},"
    )
    ending = ("too_large", str(refusal), refusal.field)
    fail(connection, now, row["id"], QUEUED, row["attempt"], ending)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
