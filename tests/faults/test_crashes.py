"""Group A: processes die, stop or are stopped at the worst moment, on every backend."""

import random
import signal
import time

import psutil
import pytest
from toy_kind import ToySpec
from worked_lab import Lab, each, on_every_backend, survivors, suspend_between_writes

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(240)]

STEADY = ToySpec(steps=15, step_seconds=0.05, makes="mine")
SHORT = ToySpec(makes="mine")
DEAF = ToySpec(makes="mine", fails="deaf_at_first")
DIES_EARLY = "the consumer, or the job's process, dies between the claim and the first step"
RECOVERED_SECONDS = 20.0
"""What the contract allows from a death to the next attempt's first step."""


@pytest.mark.case("A1", "the process of a job is killed")
@on_every_backend
def test_a_killed_child_is_replaced_at_once_and_goes_on_where_it_was(lab: Lab) -> None:
    lab.start()
    job = lab.submit(STEADY)
    psutil.Process(lab.wait_for_step(job)).kill()
    lab.wait_for_step(job, attempt=2, seconds=RECOVERED_SECONDS)
    assert lab.check_success(job, STEADY, crashes=1).attempt == 2
    assert lab.states(job) == ["queued", "running", "queued", "running", "succeeded"]


@pytest.mark.case("A2", "a consumer and all its processes are killed at once")
@pytest.mark.slow
@on_every_backend
def test_the_next_consumer_takes_over_the_job_of_one_that_was_killed(lab: Lab) -> None:
    lab.start()
    job = lab.submit(STEADY)
    lab.wait_for_step(job)
    each(lab.processes(), psutil.Process.kill)
    lab.start()
    lab.wait_for_step(job, attempt=2, seconds=RECOVERED_SECONDS)
    assert lab.check_success(job, STEADY, crashes=1).attempt == 2


@pytest.mark.case("A3", "only the consumer is killed; its children live on")
@pytest.mark.slow
@on_every_backend
def test_the_children_of_a_killed_consumer_end_with_it(lab: Lab) -> None:
    first = lab.start()
    job = lab.submit(DEAF)
    lab.wait("the job to run", lambda: lab.row(job).state == "running")
    first.kill()
    lab.wait("the orphans to end", lambda: not lab.processes(), seconds=5)
    lab.start()
    lab.wait_for_step(job, attempt=2, seconds=RECOVERED_SECONDS)
    lab.check_success(job, DEAF, crashes=1)


@pytest.mark.case("A4", "SIGTERM, as a deploy or a shut-down sends it")
@on_every_backend
def test_a_stopped_worker_gives_its_job_back_and_no_crash_is_counted(lab: Lab) -> None:
    first = lab.start()
    job = lab.submit(STEADY)
    lab.wait_for_step(job)
    first.send_signal(signal.SIGTERM)
    lab.wait("everyone to end", lambda: not lab.processes())
    assert lab.consumers[0].wait() == 0
    assert (lab.row(job).state, lab.row(job).crash_count) == ("queued", 0)
    lab.start()
    assert lab.check_success(job, STEADY, crashes=0).attempt == 2


@pytest.mark.case("A5", "SIGINT twice, while a job will not stop")
@pytest.mark.slow
@on_every_backend
def test_a_second_interrupt_changes_nothing_and_the_job_is_given_back(lab: Lab) -> None:
    first = lab.start(grace_seconds=6)  # what it takes beyond its patience with the job
    job = lab.submit(DEAF)
    lab.wait("the job to run", lambda: lab.row(job).state == "running")
    first.send_signal(signal.SIGINT)
    time.sleep(0.3)  # the worker waits for the job now, until it loses patience
    first.send_signal(signal.SIGINT)
    lab.wait("everyone to end", lambda: not lab.processes())
    assert lab.consumers[0].wait() == 0
    assert (lab.row(job).state, lab.row(job).crash_count) == ("queued", 0)
    lab.start()
    assert lab.check_success(job, DEAF, crashes=0).attempt == 2


@pytest.mark.case("A6", "the consumer dies between taking the message and claiming the job")
@pytest.mark.slow
@on_every_backend
def test_a_message_lost_with_its_reader_loses_no_job(lab: Lab) -> None:
    first = lab.start(failpoint="popped:1:kill", stale_seconds=60)
    job = lab.submit(SHORT)
    lab.wait("the consumer's death", lambda: not survivors([first]))
    assert lab.bells["batch"].waiting() == 0
    assert (lab.row(job).state, lab.row(job).attempt) == ("queued", 0)
    lab.start()
    assert lab.check_success(job, SHORT, crashes=0).attempt == 1


@pytest.mark.case("A7", DIES_EARLY)
@pytest.mark.slow
@on_every_backend
def test_a_claimed_job_that_nobody_runs_is_taken_over(lab: Lab) -> None:
    first = lab.start(failpoint="claimed:1:kill")
    job = lab.submit(SHORT)
    lab.wait("the consumer's death", lambda: not survivors([first]))
    assert (lab.row(job).state, lab.row(job).attempt) == ("running", 1)
    lab.start()
    lab.wait_for_step(job, attempt=2, seconds=RECOVERED_SECONDS)
    lab.check_success(job, SHORT, crashes=1)


@pytest.mark.case("A7", DIES_EARLY)
@pytest.mark.slow
@on_every_backend
def test_a_process_that_dies_before_its_first_step_is_replaced(lab: Lab) -> None:
    lab.start(failpoint="started:1:kill")
    job = lab.submit(SHORT)
    assert lab.check_success(job, SHORT, crashes=1).attempt == 2


@pytest.mark.case("A8", "the job's process dies between the last step and the publication")
@pytest.mark.parametrize("place", ["worked", "packed"])
@on_every_backend
def test_a_finished_job_is_published_by_the_next_attempt_without_another_step(lab: Lab, place: str) -> None:
    lab.start(failpoint=f"{place}:1:kill")
    job = lab.submit(SHORT)
    assert lab.check_success(job, SHORT, crashes=1).attempt == 2
    assert lab.steps(job, attempt=2) == []


@pytest.mark.case("A9", "the job's process dies between the rename and the commit")
@on_every_backend
def test_a_model_in_its_place_that_was_not_listed_is_listed_once(lab: Lab) -> None:
    lab.start(failpoint="placed:1:kill")
    job = lab.submit(SHORT)
    assert lab.check_success(job, SHORT, crashes=1).attempt == 2
    assert lab.steps(job, attempt=2) == []
    assert [path.name for path in lab.settings.models.iterdir()] == ["mine"]


@pytest.mark.case("A10", "a worker is stopped past its lease and wakes as a zombie")
@pytest.mark.slow
@on_every_backend
def test_a_zombie_writes_nothing_and_publishes_nothing(lab: Lab) -> None:
    steady = ToySpec(steps=25, step_seconds=0.05, makes="mine")
    lab.start()
    job = lab.submit(steady)
    lab.wait_for_step(job)
    stopped = suspend_between_writes(lab)
    before = len(lab.steps(job, attempt=1))
    told = len(lab.store.events.after(job, 0))
    lab.start()
    lab.wait_for_step(job, attempt=2, seconds=RECOVERED_SECONDS)
    each(stopped, psutil.Process.resume)
    assert lab.check_success(job, steady, crashes=1).attempt == 2
    assert len(lab.steps(job, attempt=1)) <= before + 1  # the step that it was at
    news = lab.store.events.after(job, 0)[told:]
    assert [event.payload["attempt"] for event in news if event.kind == "state"] == [1, 2, 2]
    following = lab.submit(SHORT.model_copy(update={"makes": "next"}))  # whoever takes it
    assert lab.wait_for_end(following).state == "succeeded"


@pytest.mark.case("A11", "a job kills its process at every attempt")
@on_every_backend
def test_a_job_that_kills_its_process_three_times_is_poison(lab: Lab) -> None:
    lab.start()
    job = lab.submit(ToySpec(fails="exit", makes="mine"))
    row = lab.wait_for_end(job)
    assert (row.state, row.error_code, row.attempt, row.crash_count) == ("failed", "poison", 3, 3)
    assert "SIGKILL" in (row.error_text or "")
    assert lab.store.models.list() == []
    lab.check_events(job)
    assert lab.states(job) == ["queued", *["running", "queued"] * 2, "running", "failed"]
    assert lab.wait_for_end(lab.submit(ToySpec())).state == "succeeded"  # the lane lives on


@pytest.mark.case("A12", "a process is killed every 0.3 to 1 second while jobs run")
@pytest.mark.slow
@on_every_backend
def test_jobs_under_random_kills_all_succeed_once(lab: Lab) -> None:
    chance = random.Random(12)
    specs = [ToySpec(steps=4, step_seconds=0.1, makes=f"m{n}" if n % 5 == 0 else None) for n in range(50)]
    jobs: list[str] = []
    while len(jobs) < len(specs):
        consumer = tend(lab)
        jobs += [lab.submit(spec) for spec in specs[len(jobs) : len(jobs) + 2]]
        time.sleep(chance.uniform(0.3, 1.0))
        others = [one for one in lab.processes() if one != consumer]
        busy = [one for one in others if one.pid in pids_of_jobs(lab)]
        victims = chance.choices([[consumer], others, busy], [2, 3, 10])[0] or others or [consumer]
        each([chance.choice(victims)], psutil.Process.kill)
    lab.wait("all ends", lambda: bool(tend(lab)) and all(lab.row(job).is_terminal for job in jobs), 60)
    rows = [lab.check_success(job, spec) for job, spec in zip(jobs, specs, strict=True)]
    assert sum(row.crash_count for row in rows) >= 1  # it was no quiet day
    assert len(lab.store.models.list()) == len(list(lab.settings.models.iterdir())) == 10


def pids_of_jobs(lab: Lab) -> set[int]:
    """Return the processes that have done a step of a job that runs now."""
    steps = [lab.steps(row.id, row.attempt) for row in lab.store.jobs.running()]
    return {done[-1][2] for done in steps if done}


def tend(lab: Lab) -> psutil.Process:
    """Start a consumer where there is none; one whose first child is killed gives up and ends."""
    if not lab.consumers or lab.consumers[-1].poll() is not None:
        lab.start(slots=3, most_crashes=1000)
    return psutil.Process(lab.consumers[-1].pid)
