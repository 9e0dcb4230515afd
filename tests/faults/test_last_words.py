"""What is left of an attempt whose process is killed: how it ended, and what it had written last."""

import psutil
import pytest
from toy_kind import ToySpec
from worked_lab import Lab

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(60)]


def test_a_killed_process_leaves_its_signal_and_its_device_in_the_record(lab: Lab) -> None:
    lab.start()
    job = lab.submit(ToySpec(steps=10, step_seconds=0.05))
    psutil.Process(lab.wait_for_step(job)).kill()
    assert lab.wait_for_end(job).state == "succeeded"
    told = [event.payload for event in lab.store.events.states(job)]
    crash = next(one for one in told if one["state"] == "queued" and one["attempt"] == 1)
    assert crash["why"] == "its process was killed (SIGKILL); the system may have run out of memory"
    assert (crash["exit"], crash["device"]) == ("SIGKILL", "toy device")


def test_every_attempt_that_falls_leaves_the_last_lines_of_its_own_log(lab: Lab) -> None:
    lab.start()
    job = lab.submit(ToySpec(fails="exit"))
    row = lab.wait_for_end(job)
    assert "the system may have run out of memory" in (row.error_text or "")
    ends = [event.payload for event in lab.store.events.states(job) if "exit" in event.payload]
    assert [(one["attempt"], one["state"], one["exit"]) for one in ends] == [
        (1, "queued", "SIGKILL"),
        (2, "queued", "SIGKILL"),
        (3, "failed", "SIGKILL"),
    ]
    assert [one["log"] for one in ends] == ["the toy falls over"] * 3


def test_a_bug_leaves_its_traceback_in_the_record(lab: Lab) -> None:
    lab.start()
    job = lab.submit(ToySpec(fails="bug"))
    assert lab.wait_for_end(job).error_code == "internal"
    end = lab.store.events.states(job)[-1].payload
    assert end["log"].endswith("KeyError: 'secret detail'")
    assert "exit" not in end  # the process told its own end; nobody had to look at it
