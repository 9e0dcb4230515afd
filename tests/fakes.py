"""Doubles of what a job is given: a shelf over a folder, and a job that remembers what it was told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.core.errors import Cancelled, NotFound
from lab.core.events import EventKind, NewEvent
from lab.core.job import Device, Partner

CPU = Device(torch="cpu", dtype="float32", words="CPU, 1 thread, float32", free_bytes=4 << 30)


@dataclass
class FakeShelf:
    """Finds models and datasets by name in a folder (as `root / name`), or in a mapping of its own."""

    root: Path
    places: Mapping[str, Path] = field(default_factory=dict)
    free_disk: int = 64 << 30
    memory: int = 16 << 30
    devices: int = 1

    def model(self, ref: str) -> Path:
        return self._find(ref, "model")

    def dataset(self, ref: str) -> Path:
        return self._find(ref, "dataset")

    def free_disk_bytes(self) -> int:
        return self.free_disk

    def memory_bytes(self) -> int:
        return self.memory

    def devices_together(self) -> int:
        return self.devices

    def _find(self, ref: str, what: str) -> Path:
        place = self.places.get(ref, self.root / ref)
        if not place.exists():
            raise NotFound(f"There is no {what} {ref!r}.")
        return place


@dataclass
class FakeJob(FakeShelf):
    """A job on the CPU whose events are kept in a list; cancel it at the nth breath with `cancel_at`."""

    folder: Path = Path()
    id: str = "job1"
    attempt: int = 1
    thrift: int = 0
    device: Device = CPU
    partners: tuple[Partner, ...] = ()
    events: list[NewEvent] = field(default_factory=list)
    cancel_at: int | None = None
    stop_at: int | None = None
    breaths: int = 0

    def emit(self, kind: EventKind, **payload: Any) -> None:
        self.events.append(NewEvent(kind, payload))

    def note(self, text: str, level: str = "info") -> None:
        self.emit("note", text=text, level=level)

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        self.emit("progress", fraction=fraction, words=words, seconds_left=seconds_left)

    def breathe(self) -> None:
        self.breaths += 1
        if self.cancel_at is not None and self.breaths >= self.cancel_at:
            raise Cancelled

    def stop_asked(self) -> bool:
        return self.stop_at is not None and self.breaths >= self.stop_at

    def of(self, kind: EventKind) -> list[dict[str, Any]]:
        """Return the payloads of one kind of event, in order."""
        return [event.payload for event in self.events if event.kind == kind]
