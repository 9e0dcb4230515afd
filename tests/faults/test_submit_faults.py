"""A wish is one job: however often, from wherever and at whatever hour it is handed in."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from clocked_store import wish
from servers import Backend
from toy_kind import ToySpec
from web_desk import open_desk
from worked_lab import HERE, LEASE_SECONDS, Lab, on_every_backend

from lab.core.errors import BadInput, Conflict
from lab.core.settings import child_environment
from lab.core.store import Store, Success
from lab.core.store.limits import Limits
from lab.core.store.rows import DatasetRow, ModelRow

pytestmark = pytest.mark.timeout(90)

HOUR = 3600.0


class RingCounter:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, job_id: str) -> None:
        self.rung.append(job_id)


@pytest.fixture
def store(database: Backend, tmp_path: Path) -> Iterator[Store]:
    store = Store(database.settings(tmp_path).database)
    store.database.migrate()
    yield store
    store.close()


@pytest.mark.case("D1", "fifty threads hand in one wish with one key")
@on_every_backend
def test_fifty_threads_with_one_key_make_one_job_and_ring_once(lab: Lab) -> None:
    bell = RingCounter()
    desk = replace(open_desk(lab.settings), bells={"batch": bell})
    with ThreadPoolExecutor(50) as threads:
        ids = list(threads.map(lambda _: desk.submit(ToySpec(), "ada", "click").id, range(50)))
    assert len(set(ids)) == 1
    assert bell.rung == ids[:1]
    assert [job.id for job in lab.store.jobs.list()] == ids[:1]


def test_fifty_threads_with_one_name_promise_it_once(store: Store) -> None:
    def submit(n: int) -> str:
        try:
            return store.jobs.insert(wish(str(n), promises=("m",)))[0].id
        except Conflict as error:
            return str(error)

    with ThreadPoolExecutor(50) as threads:
        got = list(threads.map(submit, range(50)))
    assert sum("already making 'm'" in words for words in got) == 49
    assert len(store.jobs.list()) == 1


@pytest.mark.case("D2", "the key of one wish comes with another")
@on_every_backend
def test_the_same_key_with_another_spec_is_refused_and_changes_nothing(lab: Lab) -> None:
    desk = open_desk(lab.settings)
    first = desk.submit(ToySpec(), "ada", "click")
    with pytest.raises(Conflict, match="was used for another job"):
        desk.submit(ToySpec(steps=99), "ada", "click")
    assert lab.store.jobs.list() == [first]
    assert desk.submit(ToySpec(steps=99), "bob", "click").owner == "bob"  # keys are each owner's own


class WebDesk:
    """A real process that submits when it is told to."""

    def __init__(self, lab: Lab, *keys: str, mode: str = "lives") -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "web_desk.py"), str(lab.settings.data), mode, *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**child_environment(), **lab.backend.environment(), "PYTHONPATH": _path()},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def ids(self) -> list[str]:
        """Wait for its end and return the jobs that it printed."""
        return self.process.communicate(timeout=60)[0].split()


def _path() -> str:
    """Return where a page's process finds the lab and the tests, after what the test itself has put there."""
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([*filter(None, [before]), str(HERE.parents[1]), str(HERE.parent)])


@pytest.mark.case("D3", "two web processes hand in the same wishes at once")
@on_every_backend
def test_two_web_processes_make_one_job_of_every_key(lab: Lab) -> None:
    keys = [f"key-{n}" for n in range(24)]
    pages = [WebDesk(lab, *keys), WebDesk(lab, *reversed(keys))]
    for page in pages:
        page.go()
    here, there = (page.ids() for page in pages)
    assert sorted(here) == sorted(there) == sorted(job.id for job in lab.store.jobs.list())
    assert len(set(here)) == 24


@pytest.mark.case("D4", "the web process dies when the row is written and before the bell rings")
@on_every_backend
def test_a_job_whose_web_process_died_before_the_bell_runs_all_the_same(lab: Lab) -> None:
    lab.start()
    page = WebDesk(lab, "click", mode="dies")
    page.go()
    assert page.ids() == []
    assert page.process.returncode == -9
    (job,) = lab.store.jobs.list()
    assert lab.wait_for_end(job.id).state == "succeeded"
    again = open_desk(lab.settings).submit(ToySpec(), "ada", "click")  # the impatient click after the crash
    assert again.id == job.id


@pytest.fixture
def skew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Give processes that are started from now on a clock that is wrong by so many seconds."""
    monkeypatch.setenv("PYTHONPATH", str(HERE / "skewed"))
    monkeypatch.setenv("CLOCK_SKEW", str(request.param))
    told = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"], text=True)
    assert abs(float(told) - time.time() - request.param) < 60
    return float(request.param)


@pytest.mark.parametrize(
    "skew",
    [
        pytest.param(HOUR, marks=pytest.mark.case("D7", "the clock of a worker and a page is an hour fast")),
        pytest.param(-HOUR, marks=pytest.mark.case("D8", "the clock of a worker and a page is an hour slow")),
    ],
    indirect=True,
    ids=["fast", "slow"],
)
@pytest.mark.slow
@pytest.mark.parametrize("lab", ["sqlite", "postgres"], indirect=True)
def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(
    lab: Lab, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lab.start()
    page = WebDesk(lab, "click")
    page.go()
    (job,) = page.ids()
    assert abs(lab.row(job).created - lab.store.database.time()) < 60
    assert lab.wait_for_end(job).state == "succeeded"
    long = lab.submit(ToySpec(steps=2000, step_seconds=0.05))
    lab.wait_for_step(long)

    monkeypatch.setenv("CLOCK_SKEW", "0")
    lab.start()
    lab.wait("both workers to be known", lambda: sum(one.is_alive for one in lab.store.workers.list()) == 2)
    began = lab.store.database.time()
    lab.wait("three leases to pass", lambda: lab.store.database.time() > began + 3 * LEASE_SECONDS)
    assert (lab.row(long).state, lab.row(long).attempt) == ("running", 1)  # not lapsed early

    wrong.kill()
    psutil.wait_procs([wrong])
    held_until = lab.row(long).lease_until
    assert held_until is not None
    lab.wait_for_step(long, attempt=2)
    given_back = [one.time for one in lab.store.events.states(long) if one.payload["state"] == "queued"][-1]
    assert held_until <= given_back < held_until + 10  # nor late
    lab.store.jobs.request_cancel(long)
    assert lab.wait_for_end(long).state == "cancelled"
    lab.check_events(long)


@pytest.mark.case("D5", "a person hands in more jobs at once than one may have waiting")
@on_every_backend
def test_of_many_submissions_at_once_as_many_are_taken_as_one_may_have_waiting(lab: Lab) -> None:
    desk = replace(open_desk(lab.settings), limits=Limits(waiting=3))

    def submit(n: int) -> str:
        try:
            return desk.submit(ToySpec(), "ada", f"click-{n}").id
        except BadInput as error:
            return str(error)

    with ThreadPoolExecutor(20) as threads:
        got = list(threads.map(submit, range(20)))
    refused = "You have 3 waiting jobs. Everyone may have 3 at most. Wait until one has begun, or cancel one"
    assert sum(words.startswith(refused) for words in got) == 17
    assert len(lab.store.jobs.list()) == 3
    desk.submit(ToySpec(), "bob")
    assert lab.store.jobs.claim("batch", "w", "cpu") is not None  # one of ada's: that leaves room
    desk.submit(ToySpec(), "ada")
    with pytest.raises(BadInput, match="3 waiting jobs"):
        desk.submit(ToySpec(), "ada")


@pytest.mark.case("D5", "a person's models and datasets take all the disk that one may have")
@on_every_backend
def test_who_has_used_up_their_disk_makes_no_further_model_until_one_is_deleted(lab: Lab) -> None:
    desk = replace(open_desk(lab.settings), limits=Limits(disk_bytes=2 * 10**9))
    job = desk.submit(ToySpec(makes="big"), "ada")
    lab.store.datasets.insert(DatasetRow("data", "ada", {}, 5 * 10**8, "", 0.0))
    assert lab.store.jobs.claim("batch", "w", "cpu") is not None
    big = ModelRow("big", "merge", "ada", (), "", {}, 15 * 10**8, "0" * 64, job.id, 0.0)
    lab.store.jobs.succeed(job.id, 1, Success(models=[big]))
    with pytest.raises(BadInput, match=r"take 2\.0 GB\. Everyone may have 2\.0 GB\. Delete some"):
        desk.submit(ToySpec(makes="more"), "ada")
    desk.submit(ToySpec(), "ada")  # it makes no model
    desk.submit(ToySpec(makes="other"), "bob")
    lab.store.models.delete("big")
    desk.submit(ToySpec(makes="more"), "ada")


@pytest.mark.case("D6", "the queue is full")
@on_every_backend
def test_a_full_queue_takes_no_more_and_still_knows_what_it_has(lab: Lab) -> None:
    desk = replace(open_desk(lab.settings), limits=Limits(queue=2, exempt=("lab",)))
    first = desk.submit(ToySpec(), "ada", "click")
    desk.submit(ToySpec(), "bob")
    with pytest.raises(BadInput, match=r"The queue is full: 2 jobs wait\. No more are taken .* Submit again"):
        desk.submit(ToySpec(), "cyd")
    assert desk.submit(ToySpec(), "ada", "click").id == first.id
    desk.submit(ToySpec(), "lab")  # the lab's own jobs are always taken
    lab.start()
    lab.wait("the queue to empty", lambda: all(job.is_terminal for job in lab.store.jobs.list()))
    assert lab.wait_for_end(desk.submit(ToySpec(), "cyd").id).state == "succeeded"
