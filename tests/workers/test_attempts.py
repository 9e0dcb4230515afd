"""An attempt notices what is asked of it, and stops by itself when its lease is not renewed."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import CPU, FakeShelf

from lab.core.errors import Cancelled, Fenced, Released
from lab.core.events import EventBuffer, NewEvent
from workers.attempt import Attempt
from workers.orders import Asked, Listener, Order, Report


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def attempt(tmp_path: Path, told: list[Any]) -> Attempt:
    row = SimpleNamespace(id="job1", attempt=1, stop_requested=False)
    return Attempt(
        row=row,  # type: ignore[arg-type]
        device=CPU,
        folder=tmp_path,
        shelf=FakeShelf(root=tmp_path),
        asked=Asked(threads=2, held_until=time.monotonic() + 60),
        events=EventBuffer(told.extend),
        use_threads=told.append,
        reach=lambda place: None,
    )


def test_a_breath_takes_the_share_of_threads_when_it_changes(attempt: Attempt, told: list[Any]) -> None:
    attempt.breathe()
    attempt.breathe()
    attempt.asked.threads = 1
    attempt.breathe()
    assert told == [2, 1]


def test_a_breath_raises_what_was_asked(attempt: Attempt) -> None:
    attempt.asked.release = True
    with pytest.raises(Released):
        attempt.breathe()
    attempt.asked.cancel = True
    with pytest.raises(Cancelled):
        attempt.breathe()


def test_a_lease_that_lapsed_fences_before_anything_else(attempt: Attempt) -> None:
    attempt.asked.cancel = True
    attempt.asked.held_until = time.monotonic() - 0.001
    with pytest.raises(Fenced):
        attempt.breathe()


def test_stop_is_a_flag_and_no_exception(attempt: Attempt) -> None:
    assert not attempt.stop_asked()
    attempt.asked.stop = True
    attempt.breathe()
    assert attempt.stop_asked()


def test_events_keep_their_order(attempt: Attempt, told: list[Any]) -> None:
    attempt.note("one")
    attempt.progress(0.5, "half", 3.0)
    attempt.events.close()
    assert told == [
        NewEvent("note", {"text": "one", "level": "info"}),
        NewEvent("progress", {"fraction": 0.5, "words": "half", "seconds_left": 3.0}),
    ]


class TestListener:
    """Orders reach the attempt that they concern, and no other."""

    def run(self, listener: Listener, attempt: int = 1) -> Asked:
        listener._take(Order("run", "job1", attempt, threads=2, at=100.0))
        run = listener.runs.get_nowait()
        assert run is not None
        return run[1]

    def listener(self) -> Listener:
        connection = SimpleNamespace(send=lambda report: None)
        return Listener(connection, lease_seconds=15.0)  # type: ignore[arg-type]

    def test_a_renewal_counts_from_when_it_was_made(self) -> None:
        listener = self.listener()
        asked = self.run(listener)
        assert asked.held_until == 115.0
        listener._take(Order("renew", "job1", 1, threads=1, at=103.0))
        assert (asked.held_until, asked.threads) == (118.0, 1)

    def test_an_order_for_another_attempt_is_not_ours(self) -> None:
        listener = self.listener()
        asked = self.run(listener, attempt=2)
        listener._take(Order("cancel", "job1", 1))
        assert not asked.cancel

    def test_an_order_after_the_end_is_nobodys(self) -> None:
        listener = self.listener()
        asked = self.run(listener)
        listener.report(Report("done", "job1", 1))
        listener._take(Order("cancel", "job1", 1))
        assert not asked.cancel
