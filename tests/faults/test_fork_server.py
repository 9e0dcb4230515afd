"""What happens when the process that all job processes are forked from is killed."""

import psutil
import pytest
from toy_kind import ToySpec
from worked_lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def fork_server_of(consumer: psutil.Process) -> psutil.Process:
    return next(one for one in consumer.children() if "forkserver" in " ".join(one.cmdline()))


def test_a_killed_fork_server_disturbs_no_running_job_and_the_next_ones_come_from_a_new_one(lab: Lab) -> None:
    consumer = lab.start()
    spec = ToySpec(steps=40, step_seconds=0.05)
    running = lab.submit(spec)
    lab.wait_for_step(running)
    fork_server_of(consumer).kill()
    later = [lab.submit(spec) for _ in range(2)]
    assert lab.check_success(running, spec, crashes=0).attempt == 1
    for job in later:
        lab.check_success(job, spec)
    assert consumer.is_running()
