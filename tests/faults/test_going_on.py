"""A job that failed is run again and goes on where it was, once, with the very same recipe."""

import pytest
from toy_kind import ToySpec
from worked_lab import Lab

from lab.core.spec import spec_sha256
from lab.core.store import NewJob


def again(lab: Lab, spec: ToySpec, parent: str, key: str = "again") -> str:
    """Queue what Desk.retry does: a new job that names the old one as its parent."""
    new = NewJob(
        owner="test",
        key=key,
        kind="toy",
        lane="batch",
        title="toy",
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec_sha256(spec),
        resumable=True,
        parent_id=parent,
    )
    job = lab.store.jobs.insert(new)[0].id
    lab.bells["batch"].ring(job)
    return job


def steps_of(lab: Lab, job: str) -> list[int]:
    return [step for step, _, _ in lab.steps(job)]


def test_a_repeated_job_goes_on_after_the_last_step_of_the_one_that_failed(lab: Lab) -> None:
    lab.start()
    broken = ToySpec(steps=3, fails="bug")
    first = lab.submit(broken)
    assert lab.wait_for_end(first).error_code == "internal"
    second = again(lab, broken, first)
    lab.wait_for_end(second)
    assert (steps_of(lab, first), steps_of(lab, second)) == ([0], [1])
    assert "Goes on with the work" in str([one.payload for one in lab.store.events.after(second, 0)])
    third = again(lab, broken, first, "late")  # the work has changed hands: this one begins anew
    lab.wait_for_end(third)
    assert steps_of(lab, third) == [0]


def test_another_recipe_begins_anew(lab: Lab) -> None:
    lab.start()
    first = lab.submit(ToySpec(steps=2, fails="bug"))
    lab.wait_for_end(first)
    second = again(lab, ToySpec(steps=2), first)
    assert lab.wait_for_end(second).state == "succeeded"
    assert steps_of(lab, second) == [0, 1]


@pytest.mark.parametrize("fails", ["bad_input"])
def test_work_that_nothing_can_be_made_of_is_not_kept(lab: Lab, fails: str) -> None:
    lab.start()
    first = lab.submit(ToySpec(steps=2, fails=fails))  # type: ignore[arg-type]
    lab.wait_for_end(first)
    lab.wait("its work to go", lambda: not (lab.settings.jobs / first / "work").exists())


def test_one_persons_failing_jobs_never_stop_the_others(lab: Lab) -> None:
    lab.start()
    bad = [lab.submit(ToySpec(fails="exit")), lab.submit(ToySpec(fails="bug"))]
    good = lab.submit(ToySpec())
    assert lab.wait_for_end(good).state == "succeeded"
    assert [lab.wait_for_end(job, 40).state for job in bad] == ["failed", "failed"]
