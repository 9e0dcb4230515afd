"""What a worker has to offer when it asks for a job: a device of its own and, beside it, further ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, bindparam, or_

from lab.core.store.devices import Place, room_on
from lab.core.store.schema import jobs


@dataclass(frozen=True)
class Offer:
    """The devices that one claim may hold: one of them for certain, others for a job that wants several.

    Attributes:
        lane: whose jobs may have them.
        place: the device whose place is free.
        room_bytes: the memory that it has left for a job; -1 while it rests.
        others: further devices of the same worker with what they have left, the emptiest first.
    """

    lane: str
    place: Place
    room_bytes: int
    others: tuple[tuple[Place, int], ...] = ()

    @classmethod
    def of(
        cls,
        connection: Connection,
        now: ColumnElement[float],
        place: Place,
        others: Sequence[Place],
        lane: str,
    ) -> "Offer":
        """Look what memory the devices have left."""
        rooms = [(other, room_on(connection, now, other, lane)) for other in others]
        rooms.sort(key=lambda room: -room[1])
        return cls(lane, place, room_on(connection, now, place, lane), tuple(rooms))

    @property
    def is_enough(self) -> ColumnElement[bool]:
        """The condition on a job's row that it fits: as many devices as it wants have each what it needs.

        It is built once for so many devices; `rooms` are its values.
        """
        return _is_enough(1 + len(self.others))

    @property
    def rooms(self) -> dict[str, int]:
        """What a job that wants so many devices may need of each of them."""
        least = [self.room_bytes, *(min(room, self.room_bytes) for _, room in self.others)]
        return {f"room_of_{count}": room for count, room in enumerate(least, start=1)}

    def chosen(self, need_bytes: int, devices: int) -> tuple[Place, ...]:
        """Return the devices that a job holds which fits: of the others the emptiest."""
        fitting = [other for other, room in self.others if room >= need_bytes]
        return (self.place, *fitting[: devices - 1])


@lru_cache(maxsize=64)
def _is_enough(devices: int) -> ColumnElement[bool]:
    return or_(
        *(
            (jobs.c.devices == count) & (jobs.c.need_bytes <= bindparam(f"room_of_{count}", type_=BigInteger))
            for count in range(1, devices + 1)
        )
    )


@lru_cache(maxsize=64)
def that_fits(following: Select[Any], devices: int) -> Select[Any]:
    """Return the query for the next job in a line that fits into the rooms of an offer of so many devices."""
    return following.where(_is_enough(devices))
