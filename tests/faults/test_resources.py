"""Jobs that run out of memory, of time or of their device, or whose numbers are none any more."""

import json
from typing import Any

import psutil
import pytest
from control_group import narrow_group
from scarce_specs import BrokenSpec, HungrySpec
from toy_kind import ToySpec
from worked_lab import Lab

from lab.core.need import Need
from lab.core.store import NewJob
from lab.tune.spec import TuneSpec
from workers.memory import kills_for_memory

pytestmark = pytest.mark.timeout(240)
START_SECONDS = 120.0
"""A consumer that has torch and transformers to import, on a machine that is busy."""

case = pytest.mark.case


def start(lab: Lab, lane: str = "batch") -> psutil.Process:
    return lab._start(["scarce_lane.py", str(lab.settings.data), lane], "")


def tune_spec(name: str, **fields: Any) -> TuneSpec:
    usual = {"max_steps": 6, "batch": 4, "rank": 4, "checkpoint_steps": 2, "held_out": 4, "evaluations": 1}
    return TuneSpec(model="base", dataset="squares", name=name, **{**usual, **fields})


def notes(lab: Lab, job: str) -> list[str]:
    return [event.payload["text"] for event in lab.store.events.after(job, 0) if event.kind == "note"]


def whys(lab: Lab, job: str) -> list[str]:
    return [event.payload["why"] for event in lab.store.events.after(job, 0) if event.kind == "state"]


def nothing_is_held(lab: Lab) -> bool:
    return lab.store.devices.holds() == []


@pytest.mark.slow
@case(
    "L1", "A GPU's memory runs out in a fine-tune: tried once more with half the rows, then failed in words"
)
def test_a_fine_tune_that_fills_the_gpu_goes_on_with_half_the_rows(stocked: Lab) -> None:
    start(stocked)
    job = stocked.submit_spec("tune", tune_spec("full-gpu"))
    hopeless = stocked.submit_spec("tune", tune_spec("always-full-gpu"))
    row = stocked.wait_for_end(job, START_SECONDS)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 0), row.error_text
    assert row.result["plan"]["micro_batch"] == 2
    assert row.result["steps"] == 6
    told = "The memory ran out with 4 rows at once. It goes on with 2 rows at once, gathered 2 times to the"
    assert any(note.startswith(told) for note in notes(stocked, job))
    assert any("tried again with 2 rows at once" in why for why in whys(stocked, job))
    assert any("checkpoint of step 2" in note for note in notes(stocked, job))  # nothing was learnt twice

    row = stocked.wait_for_end(hopeless, START_SECONDS)
    assert (row.state, row.attempt, row.error_code) == ("failed", 2, "out_of_memory")
    assert "2 rows at once" in (row.error_text or "")
    assert "GB were expected to do" in (row.error_text or "")
    assert "GB were free" in (row.error_text or "")
    assert not (stocked.settings.models / "always-full-gpu").exists()
    stocked.wait("the holds to go", lambda: nothing_is_held(stocked))
    stocked.check_events(job)


@pytest.mark.slow
@case("L2", "The system refuses a fine-tune more memory (RLIMIT_AS): tried once more with half the rows")
def test_a_fine_tune_that_the_system_refuses_memory_goes_on_with_half_the_rows(stocked: Lab) -> None:
    start(stocked)
    job = stocked.submit_spec("tune", tune_spec("limited"))
    row = stocked.wait_for_end(job, START_SECONDS)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 0), row.error_text
    assert row.result["plan"]["micro_batch"] == 2
    assert any("tried again with 2 rows at once" in why for why in whys(stocked, job))


@pytest.mark.slow
@case("L3", "The kernel kills a job in a control group without memory: seen as that, tried in a smaller plan")
def test_a_job_killed_for_want_of_memory_is_tried_in_a_smaller_plan(lab: Lab) -> None:
    start(lab)
    before = kills_for_memory()
    with narrow_group(64 << 20) as group:
        job = lab.submit_spec("hungry", HungrySpec())
        lab.wait("its first step", lambda: bool(lab.steps(job, 1)), START_SECONDS)
        pid = lab.steps(job, 1)[-1][2]
        if group is not None:
            (group / "cgroup.procs").write_text(str(pid))
            (lab.settings.jobs / job / "go").touch()
        else:
            psutil.Process(pid).kill()
        lab.wait("its first attempt's end", lambda: lab.row(job).attempt == 2, 60)
    ending = next(why for why in whys(lab, job) if "killed" in why)
    if kills_for_memory() > before:
        row = lab.wait_for_end(job, 60)
        assert ending == "the system killed its process for want of memory"
        assert (row.state, row.attempt, row.thrift, row.crash_count) == ("succeeded", 2, 1, 1), row.error_text
    else:
        assert "SIGKILL" in ending
        assert "memory" in ending
        lab.store.jobs.request_cancel(job)
        lab.wait_for_end(job, 60)


@pytest.mark.slow
@case("L4", "The loss is no number: the fine-tune stops at that step and keeps its last good checkpoint")
def test_a_fine_tune_that_diverges_stops_at_the_step_and_keeps_the_last_good_checkpoint(stocked: Lab) -> None:
    start(stocked)
    job = stocked.submit_spec("tune", tune_spec("diverged", max_steps=40))
    row = stocked.wait_for_end(job, START_SECONDS)
    assert (row.state, row.attempt, row.error_code) == ("failed", 1, "nan_loss"), row.error_text
    assert "at step 4" in (row.error_text or "")
    folder = stocked.settings.jobs / job
    stocked.wait("its work to be removed", lambda: not (folder / "work").exists())
    assert [kept.name for kept in (folder / "kept").iterdir()] == ["checkpoint-2"]
    assert (folder / "kept" / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert not (stocked.settings.models / "diverged").exists()


@pytest.mark.slow
@case("L5", "A job tells nothing any more: killed, tried once more, then failed as stalled")
def test_a_hung_job_is_killed_and_tried_once_more(lab: Lab) -> None:
    lab.start(stall=1.5)
    row = lab.wait_for_end(lab.submit(ToySpec(steps=2, fails="silence")), 60)
    assert (row.state, row.attempt, row.error_code) == ("failed", 2, "stalled"), row.error_text
    assert any("said nothing" in why for why in whys(lab, row.id))
    assert nothing_is_held(lab)


@pytest.mark.slow
@case("L6", "A GPU fails under a job: its process ends, the GPU rests, the job goes to another")
def test_a_job_whose_gpu_fails_goes_to_another_and_the_gpu_rests(lab: Lab) -> None:
    (lab.settings.data / "toy_devices.json").write_text(json.dumps({"first": 1 << 33, "second": 1 << 33}))
    start(lab)
    lab.wait("both devices", lambda: len(lab.store.devices.list()) == 2, START_SECONDS)
    blocked = [lab.submit_spec("broken", BrokenSpec()) for _ in range(3)]
    rows = [lab.wait_for_end(job, 60) for job in blocked]
    assert [row.state for row in rows] == ["succeeded"] * 3
    assert {row.device for row in rows} == {"second"}
    hit = [row for row in rows if row.crash_count]
    assert len(hit) == 1  # the first device got no other job
    assert "the GPU failed under it" in whys(lab, hit[0].id)
    devices = {device.name: device for device in lab.store.devices.list()}
    assert (devices["first"].rests, devices["second"].rests) == (True, False)
    assert nothing_is_held(lab)


def test_the_chat_gives_its_loaded_models_back_to_a_job_that_waits_for_them(lab: Lab) -> None:
    (lab.settings.data / "toy_devices.json").write_text(json.dumps({"cuda:0": 16 << 30}))
    start(lab, "chat")
    lab.wait_for_end(lab.submit(ToySpec(kind="toychat", steps=1)), START_SECONDS)
    lab.wait("its models to be known", lambda: lab.store.devices.list()[0].kept_bytes == 6 << 30)
    spec = ToySpec(steps=1)
    new = NewJob(
        "test", "large", "toy", "batch", "large", spec.model_dump(), "0" * 64, True, need=Need(12 << 30)
    )
    job = lab.store.jobs.insert(new)[0].id
    lab.start()
    row = lab.wait_for_end(job, START_SECONDS)
    assert (row.state, row.waits_for) == ("succeeded", ""), row.error_text
    assert lab.store.devices.list()[0].kept_bytes == 0
