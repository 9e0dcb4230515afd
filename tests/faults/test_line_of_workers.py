"""The line with real workers: short jobs beside a long one, a pause, and one place for each person."""

from toy_kind import ToySpec
from web_desk import open_desk
from worked_lab import Lab, on_every_backend

from lab.core.spec import spec_sha256
from lab.core.store import NewJob

LONG = ToySpec(steps=3000, step_seconds=0.05)


def queue(lab: Lab, spec: ToySpec, key: str, *, is_short: bool = False, owner: str = "test") -> str:
    new = NewJob(
        owner=owner,
        key=key,
        kind="toy",
        lane="batch",
        title=key,
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec_sha256(spec),
        resumable=True,
        is_short=is_short,
    )
    job = lab.store.jobs.insert(new)[0].id
    lab.bells["batch"].ring(job)
    return job


def end(lab: Lab, *jobs: str) -> None:
    for job in jobs:
        lab.store.jobs.request_cancel(job)
        lab.wait_for_end(job)


@on_every_backend
def test_a_short_job_runs_beside_a_long_one_and_a_second_long_one_waits(lab: Lab) -> None:
    lab.start()
    long = queue(lab, LONG, "long")
    lab.wait_for_step(long)
    other = queue(lab, LONG, "other")
    short = [queue(lab, ToySpec(), f"short-{n}", is_short=True) for n in range(2)]
    for job in short:
        assert lab.wait_for_end(job).state == "succeeded"
    assert (lab.row(long).state, lab.row(other).state) == ("running", "queued")
    lab.wait("the worker to tell its places", lambda: lab.store.line.standings("batch")[other].position == 1)
    places = [(one.places, one.short_places) for one in lab.store.workers.list()]
    assert places == [(1, 1)]
    end(lab, long)
    lab.wait_for_step(other)
    end(lab, other)


def test_while_the_queue_is_paused_running_jobs_go_on_and_none_starts(lab: Lab) -> None:
    desk = open_desk(lab.settings)
    lab.start()
    running = lab.submit(ToySpec(steps=10, step_seconds=0.1))
    lab.wait_for_step(running)
    desk.pause("test")
    waiting = lab.submit(ToySpec())
    assert lab.wait_for_end(running).state == "succeeded"
    began = lab.store.database.time()
    lab.wait("some rounds of the reaper", lambda: lab.store.database.time() > began + 1.5)
    assert lab.row(waiting).state == "queued"
    desk.resume(["batch"])
    assert lab.wait_for_end(waiting).state == "succeeded"
    desk.store.close()
