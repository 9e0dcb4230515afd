"""Places for jobs: each knows its device, one refused is changed for another, a failed device must answer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.core.store import Store
from lab.core.store.devices import Place
from workers.orders import DeviceFacts, Report
from workers.seats import Seat, Seats

GB = 1 << 30


class FakeCrew:
    """Children that become ready, or don't, as the test says."""

    def __init__(self) -> None:
        self.is_well = True
        self.replaced: list[int] = []

    def replace(self, slot: int) -> Any:
        self.replaced.append(slot)
        return SimpleNamespace(wait_until_ready=lambda _: Report("ready") if self.is_well else None)


def seat(slot: int, name: str) -> Seat:
    return Seat(slot, DeviceFacts(name, f"GPU {name}", 8 * GB), Place("here", name))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    yield store
    store.close()


@pytest.fixture
def crew() -> FakeCrew:
    return FakeCrew()


@pytest.fixture
def seats(store: Store, crew: FakeCrew) -> Seats:
    return Seats(store, crew)  # type: ignore[arg-type]


def test_the_store_knows_each_device_once(seats: Seats, store: Store) -> None:
    seats.open([seat(0, "cuda:0"), seat(1, "cuda:1"), seat(2, "cuda:0")])
    assert [(row.name, row.short, row.total_bytes) for row in store.devices.list()] == [
        ("cuda:0", "GPU cuda:0", 8 * GB),
        ("cuda:1", "GPU cuda:1", 8 * GB),
    ]


def test_a_refused_place_is_changed_for_one_on_another_device_only(seats: Seats) -> None:
    seats.open([seat(0, "cuda:0"), seat(1, "cuda:0"), seat(2, "cuda:1")])
    first = seats.take()
    other = seats.swap(first, {first.sort})
    assert other is not None
    assert other.place.device == "cuda:1"
    assert seats.swap(other, {first.sort, other.sort}) is None
    seats.give_back(other)
    assert sorted(seats.take().slot for _ in range(3)) == [0, 1, 2]  # none was lost


def test_who_got_no_job_on_the_place_for_short_ones_looks_for_any_job_on_the_same_device(
    seats: Seats,
) -> None:
    usual = seat(0, "cuda:0")
    short = replace(usual, slot=1, only_short=True)
    seats.open([short, usual])
    first = seats.take()
    assert first == short
    assert seats.swap(first, {first.sort}) == usual


def test_a_device_that_never_failed_is_not_asked(seats: Seats, crew: FakeCrew) -> None:
    seats.open([seat(0, "cuda:0")])
    assert seats.is_well(seats.every[0])
    assert crew.replaced == []


def test_a_device_that_failed_is_asked_after_its_rest_by_a_new_process(
    seats: Seats, crew: FakeCrew, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats.open([seat(3, "cuda:0")])
    one = seats.every[0]
    store.devices.rest(one.place)
    seats.mark_broken(one)
    assert not seats.is_well(one)
    assert crew.replaced == []  # it rests: nobody asks it
    monkeypatch.setattr(store.devices, "rests", lambda place: False)
    crew.is_well = False
    warned: list[bool] = []
    assert not seats.is_well(one, lambda: warned.append(True))
    assert (crew.replaced, warned) == ([3], [True])
    monkeypatch.undo()
    assert store.devices.rests(one.place)  # for another while
    monkeypatch.setattr(store.devices, "rests", lambda place: False)
    crew.is_well = True
    assert seats.is_well(one)
    assert seats.is_well(one)
    assert crew.replaced == [3, 3]


def test_every_place_on_a_device_that_failed_gets_a_new_process(
    seats: Seats, crew: FakeCrew, store: Store
) -> None:
    seats.open([seat(0, "cuda:0"), seat(1, "cuda:1"), seat(2, "cuda:0")])
    seats.mark_broken(seats.every[0])
    assert [seats.is_well(one) for one in seats.every] == [True] * 3
    assert crew.replaced == [0, 2]
