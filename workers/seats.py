"""The places of one consumer: each runs one job at a time on a device of this host."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lab.core.store import Store
from lab.core.store.devices import Place
from workers.crew import Crew
from workers.orders import DeviceFacts

READY_SECONDS = 180.0


@dataclass(frozen=True)
class Seat:
    """One place for a job.

    Attributes:
        slot: its number, which chooses the child and with it the device.
        facts: the device as its first child found it.
        place: the device in the table of devices.
        only_short: kept for short jobs, which so never wait behind an hour of training.
    """

    slot: int
    facts: DeviceFacts
    place: Place
    only_short: bool = False

    @property
    def sort(self) -> tuple[Place, bool]:
        """What decides which jobs it may take: where one of this sort gets none, another gets none."""
        return self.place, self.only_short


class Seats:
    """All places of a consumer, the free ones in a queue.

    Args:
        store: the lab's memory.
        crew: the children that fill the places.
    """

    def __init__(self, store: Store, crew: Crew) -> None:
        self._store, self._crew = store, crew
        self._free: SimpleQueue[Seat] = SimpleQueue()
        self._broken: set[Seat] = set()
        self._probing = threading.Lock()
        self.every: tuple[Seat, ...] = ()

    def open(self, seats: Sequence[Seat]) -> None:
        """Say what places there are, before the first is taken, and tell the store of their devices."""
        self.every = tuple(seats)
        self.beat()
        for seat in seats:
            self._free.put(seat)

    def beat(self) -> None:
        """Tell the store that our devices are there."""
        for place, facts in {seat.place: seat.facts for seat in self.every}.items():
            self._store.devices.beat(place, facts.words, facts.total_bytes)

    def others(self, seat: Seat) -> tuple[Place, ...]:
        """Return our further devices, for a job that wants several; one that failed takes no part."""
        places = {one.place for one in self.every} - {one.place for one in self._broken} - {seat.place}
        return tuple(sorted(places, key=lambda place: place.device))

    def take(self) -> Seat:
        """Wait for a free place and take it."""
        return self._free.get()

    def give_back(self, seat: Seat) -> None:
        """Free a place."""
        self._free.put(seat)

    def swap(self, seat: Seat, refused: set[tuple[Place, bool]]) -> Seat | None:
        """Change a place for a free one of a sort that was not refused yet; None when there is none."""
        for _ in range(self._free.qsize()):
            try:
                other = self._free.get_nowait()
            except Empty:
                return None
            if other.sort not in refused:
                self._free.put(seat)
                return other
            self._free.put(other)
        return None

    def mark_broken(self, seat: Seat) -> None:
        """Remember that a device failed: it must answer before a place on it gets its next job."""
        self._broken.update(other for other in self.every if other.place == seat.place)

    def is_well(self, seat: Seat, warn: Callable[[], None] = lambda: None) -> bool:
        """Whether a device may be given a job. One that failed is asked by a new process after its rest.

        Args:
            seat: a place on it.
            warn: called where it does not answer; it rests for another while then.
        """
        if seat not in self._broken:
            return True
        with self._probing:
            if self._store.devices.rests(seat.place):
                return False
            if self._crew.replace(seat.slot).wait_until_ready(READY_SECONDS) is None:
                self._store.devices.rest(seat.place)
                warn()
                return False
            self._broken.discard(seat)
            return True
