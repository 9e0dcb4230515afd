"""The reaper rings for lost bells, wakes its own worker where no bell rings, and outlives the database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Backend, Postgres, Redis

from lab.core.settings import Settings
from lab.core.store import NewJob, Store, open_store
from workers.lane import LanePlan
from workers.queue import make_bells
from workers.reaper import Reaper

PLAN = LanePlan(lane="batch", stale_seconds=-1.0)  # whatever waits has waited long enough


class Round:
    """A reaper with its store and bells; `woken` counts how often it woke its own worker."""

    def __init__(self, settings: Settings) -> None:
        self.store: Store = open_store(settings)
        self.bells = make_bells(settings)
        self.woken = 0
        self.reaper = Reaper(settings, self.store, self.bells, PLAN, self.beat, self.wake)

    def beat(self) -> None:
        self.store.workers.beat("w1", "batch", "here", "CPU")

    def wake(self) -> None:
        self.woken += 1

    def submit(self) -> str:
        new = NewJob("ada", "k", "merge", "batch", "a merge", {}, "0" * 64, resumable=True)
        return self.store.jobs.insert(new)[0].id


@pytest.fixture
def round_(backend: Backend, tmp_path: Path) -> Iterator[Round]:
    one = Round(backend.settings(tmp_path))
    yield one
    one.store.close()
    for bell in one.bells.values():
        bell.close()


def test_a_waiting_job_without_a_message_is_rung_for_once(round_: Round) -> None:
    round_.submit()
    round_.reaper.round()
    round_.reaper.round()
    assert (round_.bells["batch"].waiting(), round_.woken) == (1, 0)


def test_a_job_whose_message_was_lost_is_rung_for_again(round_: Round, backend: Backend) -> None:
    round_.bells["batch"].ring(round_.submit())
    round_.bells["batch"]._queue.flush()
    assert round_.bells["batch"].waiting() == 0
    round_.reaper.round()
    assert round_.bells["batch"].waiting() == 1


def test_nothing_is_rung_for_when_nothing_waits(round_: Round) -> None:
    round_.reaper.round()
    assert round_.bells["batch"].waiting() == 0


@pytest.mark.server
def test_while_the_redis_is_down_the_reaper_wakes_its_own_worker(own_redis: Redis, tmp_path: Path) -> None:
    one = Round(Settings(data=tmp_path, queue_url=own_redis.url))
    own_redis.kill()
    one.bells["batch"].ring(one.submit())  # the submit goes through
    one.reaper.round()
    one.store.close()
    assert one.woken == 1


@pytest.mark.server
def test_a_reaper_outlives_the_database(own_postgres: Postgres, tmp_path: Path) -> None:
    one = Round(Settings(data=tmp_path, database_url=own_postgres.fresh()))
    job = one.submit()
    own_postgres.stop()
    one.reaper._round_or_wait()
    own_postgres.start()
    one.reaper._round_or_wait()
    assert one.store.jobs.get(job).state == "queued"
    assert one.bells["batch"].waiting() == 1
    one.store.close()
