"""A fine-tune on two devices (the CPU in two parts) whose processes are killed, and one that is cancelled."""

import psutil
import pytest
from worked_lab import Lab

from lab.core.need import Need
from lab.core.spec import spec_sha256
from lab.core.store import NewJob
from lab.tune.spec import TuneSpec

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
START_SECONDS = 180.0
"""Two processes that have torch and transformers to import, on a machine that is busy."""

CHECKPOINT_STEPS = 2

case = pytest.mark.case


@pytest.fixture
def two_devices(stocked: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("LAB_DEVICES", "cpu:0,cpu:1")
    stocked.start_real()
    return stocked


def submit(lab: Lab, name: str, steps: int) -> str:
    spec = TuneSpec(
        model="base", dataset="squares", name=name, devices=2, batch=4, rank=4, held_out=0,
        max_steps=steps, checkpoint_steps=CHECKPOINT_STEPS,
    )  # fmt: skip
    new = NewJob(
        owner="test", key=name, kind="tune", lane="batch", title=name, spec=spec.model_dump(mode="json"),
        spec_sha256=spec_sha256(spec), resumable=True, promises=(name,), need=Need(1 << 20, devices=2),
    )  # fmt: skip
    job = lab.store.jobs.insert(new)[0].id
    lab.bells["batch"].ring(job)
    return job


def wait_for_a_step(lab: Lab, job: str, attempt: int, step: int = 1) -> psutil.Process:
    """Wait until an attempt tells this step, and return the process that computes beside the job's own."""

    def told() -> bool:
        at = 0
        for event in lab.store.events.after(job, 0):
            at = event.payload["attempt"] if event.kind == "state" else at
            if event.kind == "metric" and at == attempt and event.payload["step"] >= step:
                return True
        return False

    lab.wait(f"a step of attempt {attempt}", told, START_SECONDS)
    [beside] = [one for one in lab.processes() if "lab.tune.companion" in one.cmdline()]
    return beside


def whys(lab: Lab, job: str) -> list[str]:
    return [event.payload["why"] for event in lab.store.events.after(job, 0) if event.kind == "state"]


@case("A13", "one of the processes of a fine-tune on several devices is killed, then the job's own")
def test_a_fine_tune_on_two_devices_goes_on_at_its_last_checkpoint_whoever_is_killed(
    two_devices: Lab,
) -> None:
    lab = two_devices
    job = submit(lab, "together", steps=80)
    beside = wait_for_a_step(lab, job, 1, step=CHECKPOINT_STEPS + 1)
    assert sorted(hold.device for hold in lab.store.devices.holds()) == ["cpu:0", "cpu:1"]
    beside.kill()
    beside = wait_for_a_step(lab, job, 2)
    assert any(
        "process 2 of the 2 that trained together was killed (signal 9)" in why for why in whys(lab, job)
    )
    own = beside.parent()
    assert own is not None
    own.kill()
    lab.wait("the end of the process beside it", lambda: not beside.is_running(), 20)
    row = lab.wait_for_end(job, START_SECONDS)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 3, 2), row.error_text
    assert row.result["devices"] == 2
    assert row.device.endswith(" and cpu:1") or row.device.endswith(" and cpu:0")
    notes = [event.payload["text"] for event in lab.store.events.after(job, 0) if event.kind == "note"]
    assert sum("Going on from the checkpoint" in note for note in notes) == 2
    [model] = [model for model in lab.store.models.list() if model.name == "together"]
    assert model.facts["devices"] == 2
    lab.check_events(job)
    assert lab.store.devices.holds() == []


@case("E7", "a job that computes on several devices is cancelled")
def test_a_cancel_ends_every_process_of_a_job(two_devices: Lab) -> None:
    lab = two_devices
    job = submit(lab, "unwanted", steps=100_000)
    beside = wait_for_a_step(lab, job, 1)
    lab.store.jobs.request_cancel(job)
    assert lab.wait_for_end(job, 30).state == "cancelled"
    lab.wait("the end of the process beside it", lambda: not beside.is_running(), 20)
    assert lab.store.devices.holds() == []
