"""What memory a job needs at its peak, and what would make it need less. Knows no kind of job."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from lab.core.errors import BadInput

MOST_WAYS = 3


@dataclass(frozen=True)
class Way:
    """One change of a recipe that makes it smaller.

    Attributes:
        sort: what is changed, such as "length"; of one sort only the mildest that fits is offered.
        words: the change for people: "rows of at most 512 tokens".
        memory_bytes: what the job needs with it.
    """

    sort: str
    words: str
    memory_bytes: int


@dataclass(frozen=True)
class Need:
    """What one job needs of a device.

    Attributes:
        memory_bytes: its peak, as estimated; 0 when nobody knows: it may run anywhere.
        ways: what would make it smaller, the mildest first.
        field: the form field that a refusal is shown at.
        devices: how many devices of one host it takes at once; of each it needs that memory.
    """

    memory_bytes: int = 0
    ways: tuple[Way, ...] = ()
    field: str = "model"
    devices: int = 1

    def ways_into(self, room_bytes: int) -> list[str]:
        """Return up to three changes that fit into so much memory, one of each sort."""
        fitting: dict[str, str] = {}
        for way in self.ways:
            if way.memory_bytes <= room_bytes:
                fitting.setdefault(way.sort, way.words)
        return list(fitting.values())[:MOST_WAYS]

    def too_large_for(self, room_bytes: int, where: str) -> BadInput:
        """Return the refusal of a job that no device can hold.

        Args:
            room_bytes: the memory of the largest device.
            where: that device in words, as the subject of a sentence.
        """
        ways = self.ways_into(room_bytes)
        return BadInput(
            f"This needs about {self.memory_bytes / 2**30:.1f} GB of memory"
            f"{f' on each of {self.devices} devices' if self.devices > 1 else ''}.",
            f"{where} has {room_bytes / 2**30:.1f} GB.",
            f"It would fit with {', or '.join(ways)}."
            if ways
            else "Choose a smaller model: nothing smaller fits.",
            field=self.field,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the need as JSON values."""
        ways = [[way.sort, way.words, way.memory_bytes] for way in self.ways]
        several = {"devices": self.devices} if self.devices > 1 else {}
        return {"memory_bytes": self.memory_bytes, "ways": ways, "field": self.field, **several}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `as_json` returned; nothing is the need that nobody knows."""
        ways = tuple(Way(*way) for way in value.get("ways", ()))
        field, devices = value.get("field", "model"), int(value.get("devices", 1))
        return cls(int(value.get("memory_bytes", 0)), ways, field, devices)


UNKNOWN = Need()
"""The need that nobody knows."""


@runtime_checkable
class KnowsNeed(Protocol):
    """What a kind's check returns when it knows what the job will need."""

    @property
    def need(self) -> Need:
        """What the job needs of a device."""
        ...


def need_of(found: object) -> Need:
    """Return what a check found out about the need, or the need that nobody knows."""
    return found.need if isinstance(found, KnowsNeed) else UNKNOWN


def mildest(ways: Iterable[Way], least_bytes: int) -> tuple[Way, ...]:
    """Return the ways that need less than the job as it is."""
    return tuple(way for way in ways if way.memory_bytes < least_bytes)
