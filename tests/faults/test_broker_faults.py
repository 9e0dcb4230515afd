"""Group B: the queue and the database go away, forget, slow down, or hand over what nobody of ours wrote."""

import hmac
import json
import pickle
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import Postgres, Redis
from slow_wire import SlowWire
from toy_kind import ToySpec
from worked_lab import LEASE_SECONDS, Lab, on_every_backend

from lab.core.errors import Unavailable
from workers.queue import LONGEST_MESSAGE_BYTES, make_bells, open_queue
from workers.tasks import TASK_NAME

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(240)]

SHORT = ToySpec()
STEADY = ToySpec(steps=15, step_seconds=0.05, makes="mine")
OUTAGE_SECONDS = 10.0
OUR_LEASE_SECONDS = 15.0
SLOW_ANSWERS = "every answer of the queue's server, or of the database, takes 500 ms"
AWAY = "SQLite is locked, or Postgres away, for 10 seconds or for longer than a lease"
KEY = "the key of every host of this lab"

on_own_redis = pytest.mark.parametrize("lab", ["own redis"], indirect=True)
on_own_postgres = pytest.mark.parametrize("lab", ["own postgres"], indirect=True)


@pytest.fixture
def broker(lab: Lab) -> Redis:
    """The Redis of a lab, which its test may hurt."""
    assert lab.backend.redis is not None
    return lab.backend.redis


@pytest.fixture
def server(lab: Lab) -> Postgres:
    """The Postgres of a lab, which its test may hurt."""
    assert lab.backend.postgres is not None
    return lab.backend.postgres


def check_undisturbed(lab: Lab, job: str, spec: ToySpec) -> None:
    assert lab.check_success(job, spec, crashes=0).attempt == 1


class TestTheQueueGoesAway:
    @pytest.mark.case("B1", "Redis is killed while jobs run and wait, and comes back empty")
    @pytest.mark.slow
    @on_own_redis
    def test_a_redis_that_is_killed_and_forgets_everything_loses_no_job(
        self, lab: Lab, broker: Redis
    ) -> None:
        lab.start(stale_seconds=1)
        running = lab.submit(STEADY)
        lab.wait_for_step(running)
        waiting = [lab.submit(SHORT) for _ in range(5)]
        broker.kill()
        broker.start()
        assert lab.bells["batch"].waiting() == 0
        check_undisturbed(lab, running, STEADY)
        for job in waiting:
            check_undisturbed(lab, job, SHORT)

    @pytest.mark.case("B2", "FLUSHALL, before a worker starts and while it works")
    @pytest.mark.slow
    @on_own_redis
    def test_a_flushed_redis_loses_no_job(self, lab: Lab, broker: Redis) -> None:
        early = [lab.submit(SHORT) for _ in range(3)]
        broker.flush()
        lab.start(stale_seconds=1)
        running = lab.submit(STEADY)
        lab.wait_for_step(running)
        late = [lab.submit(SHORT) for _ in range(3)]
        broker.flush()
        check_undisturbed(lab, running, STEADY)
        for job in early + late:
            check_undisturbed(lab, job, SHORT)

    @pytest.mark.case("B3", "the queue's server is down when a job is submitted")
    @pytest.mark.slow
    @on_own_redis
    def test_a_job_submitted_while_redis_is_down_is_taken_soon_and_runs_without_it(
        self, lab: Lab, broker: Redis
    ) -> None:
        lab.start()
        check_undisturbed(lab, lab.submit(SHORT), SHORT)
        broker.kill()
        began = time.monotonic()
        jobs = [lab.submit(SHORT) for _ in range(10)]
        assert time.monotonic() - began < 8  # one bell waits for its server, the others don't even try
        for job in jobs:
            check_undisturbed(lab, job, SHORT)

    @pytest.mark.case("B4", "the queue's server goes down while a job runs, and comes back")
    @pytest.mark.slow
    @on_own_redis
    def test_a_running_job_does_not_notice_that_redis_is_away(self, lab: Lab, broker: Redis) -> None:
        lab.start(stale_seconds=600)
        running = lab.submit(STEADY)
        lab.wait_for_step(running)
        broker.kill()
        check_undisturbed(lab, running, STEADY)
        broker.start()
        lab.wait("the bell to be heard again", lambda: lab.bells["batch"].ring("any"))
        check_undisturbed(lab, lab.submit(SHORT), SHORT)


class TestASlowWire:
    @pytest.fixture
    def wires(self) -> Iterator[list[SlowWire]]:
        wires: list[SlowWire] = []
        yield wires
        for wire in wires:
            wire.close()

    @pytest.mark.case("B5", SLOW_ANSWERS)
    @pytest.mark.slow
    @pytest.mark.parametrize("lab", ["redis"], indirect=True)
    def test_jobs_run_once_behind_a_slow_queue(self, lab: Lab, broker: Redis, wires: list[SlowWire]) -> None:
        wires.append(SlowWire(broker.port, 0.5))
        use_queue(lab, queue_url=f"redis://127.0.0.1:{wires[0].port}/0")
        lab.start(stale_seconds=600)
        jobs = []
        for _ in range(4):
            began = time.monotonic()
            jobs.append(lab.submit(SHORT))
            assert time.monotonic() - began < 5
        for job in jobs:
            check_undisturbed(lab, job, SHORT)

    @pytest.mark.case("B5", SLOW_ANSWERS)
    @pytest.mark.slow
    @pytest.mark.parametrize("lab", ["postgres"], indirect=True)
    def test_a_job_runs_once_on_a_slow_database(
        self, lab: Lab, server: Postgres, wires: list[SlowWire]
    ) -> None:
        wires.append(SlowWire(server.port, 0.5))
        direct = lab.settings.database_url
        lab.settings = lab.settings.model_copy(
            update={"database_url": direct.replace(str(server.port), str(wires[0].port))}
        )
        lab.start(lease_seconds=OUR_LEASE_SECONDS)
        job = lab.submit(SHORT)
        lab.wait_for_end(job, seconds=110)
        check_undisturbed(lab, job, SHORT)


def use_queue(lab: Lab, **changes: str) -> None:
    """Change a lab's settings before its first consumer starts, and make its bells anew."""
    for bell in lab.bells.values():
        bell.close()
    lab.settings = lab.settings.model_copy(update=changes)
    lab.bells = make_bells(lab.settings)  # type: ignore[assignment]


class Harm:
    """A pickle that makes a folder where it is opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.mkdir, (self._folder,)


def message(number: int, job: str, task: str = TASK_NAME, key: str = KEY) -> dict[str, str]:
    """Return a signed message as another host of the lab would write it."""
    told = {"id": f"forged-{number}", "task": task, "job": job}
    signature = hmac.new(key.encode(), "\n".join(told.values()).encode(), "sha256").hexdigest()
    return {**told, "signature": signature}


Forge = Callable[[int, str, Path], bytes]


def signed_by_another(number: int, job: str, _: Path) -> bytes:
    return json.dumps(message(number, job, key="guessed")).encode()


def too_long(number: int, job: str, _: Path) -> bytes:
    return json.dumps(message(number, job)).encode().ljust(LONGEST_MESSAGE_BYTES + 1)


def for_another_task(number: int, job: str, _: Path) -> bytes:
    return json.dumps(message(number, job, task="os.system")).encode()


def pickled(number: int, _: str, harm: Path) -> bytes:
    return pickle.dumps((Harm(harm), number))


case, slow = pytest.mark.case, pytest.mark.slow


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(signed_by_another, marks=case("B6", "a message with another key's signature")),
        pytest.param(too_long, marks=[slow, case("B7", "a message of more than 4 KiB")]),
        pytest.param(for_another_task, marks=[slow, case("B8", "a message for a task that is not ours")]),
        pytest.param(pickled, marks=case("B9", "a pickle in the queue")),
    ],
)
@on_every_backend
def test_what_nobody_of_ours_wrote_wakes_no_worker_and_stops_none(
    lab: Lab, forge: Forge, tmp_path: Path
) -> None:
    harm = tmp_path / "harm"
    use_queue(lab, queue_key=KEY)
    job = lab.submit(SHORT, ring=False)
    storage = open_queue(lab.settings, "batch").storage
    for number in range(3):
        storage.enqueue(forge(number, job, harm), None)
    assert lab.bells["batch"].waiting() == 3
    lab.start(stale_seconds=600)
    lab.wait("the queue to be read", lambda: lab.bells["batch"].waiting() == 0)
    assert (lab.row(job).state, lab.row(job).attempt) == ("queued", 0)  # at least two are done with
    storage.enqueue(json.dumps(message(9, job)).encode(), None)
    check_undisturbed(lab, job, SHORT)
    assert not harm.exists()


def test_the_pickle_would_do_harm_where_it_were_opened(tmp_path: Path) -> None:
    pickle.loads(pickled(0, "job", tmp_path / "harm"))
    assert (tmp_path / "harm").exists()


class TestTheDatabaseGoesAway:
    LONG = ToySpec(steps=60, step_seconds=0.2, makes="mine")

    @pytest.mark.case("B10", AWAY)
    @pytest.mark.slow
    def test_a_job_goes_on_while_sqlite_is_locked_and_a_submit_is_refused_aloud(self, lab: Lab) -> None:
        lab.start(lease_seconds=OUR_LEASE_SECONDS)
        job = lab.submit(self.LONG)
        lab.wait_for_step(job)
        before = len(lab.steps(job))
        with sqlite3.connect(lab.settings.data / "lab.db", isolation_level=None) as other:
            other.execute("begin immediate")
            began = time.monotonic()
            with pytest.raises(Unavailable, match="Nothing was changed"):
                lab.submit(SHORT)
            assert time.monotonic() - began > OUTAGE_SECONDS - 1
            other.execute("rollback")
        assert len(lab.steps(job)) - before > 10
        assert [row.id for row in lab.store.jobs.list()] == [job]
        check_undisturbed(lab, job, self.LONG)
        check_undisturbed(lab, lab.submit(SHORT), SHORT)

    @pytest.mark.case("B10", AWAY)
    @pytest.mark.slow
    @on_own_postgres
    def test_a_job_goes_on_while_postgres_is_away_and_a_submit_is_refused_aloud(
        self, lab: Lab, server: Postgres
    ) -> None:
        lab.start(lease_seconds=OUR_LEASE_SECONDS)
        job = lab.submit(self.LONG)
        lab.wait_for_step(job)
        before = len(lab.steps(job))
        server.kill()
        back = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < back:
            with pytest.raises(Unavailable, match="Nothing was changed"):
                lab.submit(SHORT)
            time.sleep(0.5)
        assert len(lab.steps(job)) - before > 10
        server.start()
        check_undisturbed(lab, job, self.LONG)
        assert [row.id for row in lab.store.jobs.list()] == [job]
        check_undisturbed(lab, lab.submit(SHORT), SHORT)

    @pytest.mark.case("B10", AWAY)
    @pytest.mark.slow
    @on_own_postgres
    def test_an_attempt_that_cannot_renew_its_lease_stops_by_itself(self, lab: Lab, server: Postgres) -> None:
        spec = ToySpec(steps=50, step_seconds=0.1, makes="mine")
        lab.start()
        job = lab.submit(spec)
        lab.wait_for_step(job)
        server.kill()
        time.sleep(LEASE_SECONDS + 1)
        done = len(lab.steps(job))
        time.sleep(1)
        assert len(lab.steps(job)) == done < spec.steps
        server.start()
        row = lab.check_success(job, spec)
        assert row.attempt == 2
        assert row.crash_count <= 1  # none, unless the reaper was faster than the worker that gives it back
