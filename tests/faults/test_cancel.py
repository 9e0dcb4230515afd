"""A cancel ends a job wherever it is: soon, for good, and never half."""

import pytest
from toy_kind import ToySpec
from worked_lab import Lab

pytestmark = pytest.mark.timeout(60)

LONG = ToySpec(steps=1000, step_seconds=0.05)


def cancels_told(lab: Lab, job: str) -> list[str]:
    return [state for state in lab.states(job) if state.startswith("cancel")]


@pytest.mark.case("E1", "a job is cancelled that waits")
def test_a_waiting_job_is_cancelled_at_once_and_never_runs(lab: Lab) -> None:
    job = lab.submit(ToySpec(makes="mine"))
    assert lab.store.jobs.request_cancel(job).state == "cancelled"
    lab.start()
    following = lab.submit(ToySpec(makes="mine"))  # the name is free again
    assert lab.wait_for_end(following).state == "succeeded"
    assert lab.steps(job) == []
    assert lab.states(job) == ["queued", "cancelled"]
    lab.check_events(job)


@pytest.mark.case("E2", "a job is cancelled that runs")
def test_a_running_job_notices_within_two_seconds(lab: Lab) -> None:
    lab.start()
    job = lab.submit(LONG)
    lab.wait_for_step(job)
    lab.store.jobs.request_cancel(job)
    row = lab.wait_for_end(job, seconds=2)
    assert row.state == "cancelled"
    lab.wait("its work to be removed", lambda: not (lab.settings.jobs / job / "work").exists(), 2)
    assert lab.states(job) == ["queued", "running", "cancelling", "cancelled"]
    lab.check_events(job)


@pytest.mark.case("E3", "a job is cancelled between two steps")
def test_a_job_cancelled_between_two_steps_begins_no_other(lab: Lab) -> None:
    lab.start(failpoint="breathe:5:nap", grace_seconds=10.0)  # before step 3, as one breath is before all
    job = lab.submit(ToySpec(steps=6))
    lab.wait("the third step", lambda: len(lab.steps(job)) == 3)
    lab.store.jobs.request_cancel(job)
    assert lab.wait_for_end(job, seconds=5).state == "cancelled"
    assert [step for step, _, _ in lab.steps(job)] == [0, 1, 2]


@pytest.mark.case("E4", "a job is cancelled while it is deep in C code")
@pytest.mark.parametrize("kind", ["toy", "toychat"])
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"fails": "stuck"}, id="which lets no thread run"),
        pytest.param(
            {"steps": 1, "step_seconds": 60, "deaf": True}, id="which waits", marks=pytest.mark.slow
        ),
    ],
)
def test_a_job_that_cannot_notice_is_killed_and_its_place_is_free_again(
    lab: Lab, kind: str, spec: dict[str, object]
) -> None:
    lab.start("chat" if kind == "toychat" else "batch")
    job = lab.submit(ToySpec.model_validate({"kind": kind, **spec}))
    lab.wait("the job to run", lambda: lab.row(job).state == "running")
    if "fails" in spec:
        lab.wait_for_step(job)
    lab.store.jobs.request_cancel(job)
    assert lab.wait_for_end(job, seconds=8).state == "cancelled"  # one second of grace in these lanes
    following = lab.submit(ToySpec.model_validate({"kind": kind}))
    assert lab.wait_for_end(following).state == "succeeded"


def placed(lab: Lab) -> list[str]:
    """Return what stands on the shelf, the trash aside."""
    return sorted(folder.name for folder in lab.settings.models.iterdir() if not folder.name.startswith("."))


@pytest.mark.case("E5", "a job is cancelled between the rename and the commit")
def test_a_job_cancelled_while_it_publishes_may_still_succeed_and_then_it_does_wholly(lab: Lab) -> None:
    lab.start(failpoint="placed:1:nap", grace_seconds=10.0)
    job = lab.submit(ToySpec(makes="mine"))
    lab.wait("the rename", lambda: placed(lab) == ["mine"])
    lab.store.jobs.request_cancel(job)
    assert lab.wait_for_end(job).state == "succeeded"
    assert [model.name for model in lab.store.models.list()] == ["mine"]
    assert cancels_told(lab, job) == ["cancelling"]
    lab.check_events(job)


@pytest.mark.case("E5", "a job is cancelled between the rename and the commit")
def test_a_job_that_hangs_while_it_publishes_is_cancelled_and_leaves_nothing(lab: Lab) -> None:
    lab.start(failpoint="placed:1:sleep")
    job = lab.submit(ToySpec(makes="mine"))
    lab.wait("the rename", lambda: placed(lab) == ["mine"])
    lab.store.jobs.request_cancel(job)
    assert lab.wait_for_end(job).state == "cancelled"
    lab.wait("what it had placed to be removed", lambda: placed(lab) == [])
    assert lab.store.models.list() == []
    following = lab.submit(ToySpec(makes="mine"))
    assert lab.wait_for_end(following).state == "succeeded"
    assert lab.store.models.get("mine").job_id == following


@pytest.mark.case("E6", "a job is cancelled twice")
def test_a_second_cancel_changes_nothing(lab: Lab) -> None:
    lab.start()
    job = lab.submit(LONG)
    lab.wait_for_step(job)
    lab.store.jobs.request_cancel(job)
    lab.store.jobs.request_cancel(job)
    row = lab.wait_for_end(job, seconds=2)
    assert lab.store.jobs.request_cancel(job) == row
    assert cancels_told(lab, job) == ["cancelling", "cancelled"]
    lab.check_events(job)


def test_stop_keeps_what_there_is(lab: Lab) -> None:
    lab.start()
    job = lab.submit(LONG)
    lab.wait_for_step(job)
    lab.store.jobs.request_stop(job)
    row = lab.wait_for_end(job, seconds=3)
    assert (row.state, row.stopped_early) == ("succeeded", True)


def test_a_job_deep_in_c_code_ends_with_its_consumer(lab: Lab) -> None:
    consumer = lab.start()
    job = lab.submit(ToySpec(fails="stuck"))
    lab.wait_for_step(job)
    consumer.kill()
    lab.wait("everyone to end", lambda: not lab.processes(), seconds=10)
