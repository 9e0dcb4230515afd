"""What happens when processes die, hang or race: toy jobs, real processes, short leases."""

import sqlite3
import sys

import psutil
import pytest
from toy_kind import ToySpec
from worked_lab import HERE, Lab, family, survivors

from workers.start import Command, Workers

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(60)]

LONG = ToySpec(steps=1000, step_seconds=0.05)


class TestDeadProcesses:
    def test_the_consumer_ends_when_its_parent_does(self, lab: Lab) -> None:
        consumer = lab.start()
        job = lab.submit(LONG)
        lab.wait_for_step(job)
        everyone = family(consumer)
        parents_end = lab.consumers[0].stdin
        assert parents_end is not None
        parents_end.close()
        lab.wait("everyone to end", lambda: not survivors(everyone), seconds=5)
        assert (lab.row(job).state, lab.row(job).crash_count) == ("queued", 0)

    def test_a_job_that_cannot_go_on_midway_fails_and_says_so(self, lab: Lab) -> None:
        lab.start("chat")
        job = lab.submit(ToySpec(kind="toychat", steps=100, step_seconds=0.05))
        psutil.Process(lab.wait_for_step(job)).kill()
        row = lab.wait_for_end(job)
        assert (row.state, row.error_code) == ("failed", "interrupted")
        again = lab.submit(ToySpec(kind="toychat"))
        assert lab.wait_for_end(again).state == "succeeded"  # the engine is back


class TestShutdown:
    def test_a_job_that_will_not_stop_is_killed_and_given_back(self, lab: Lab) -> None:
        consumer = lab.start()
        job = lab.submit(ToySpec(steps=1, step_seconds=60, deaf=True))
        lab.wait("the job to run", lambda: lab.row(job).state == "running")
        everyone = family(consumer)
        consumer.terminate()
        lab.wait("everyone to end", lambda: not survivors(everyone), seconds=8)
        assert (lab.row(job).state, lab.row(job).crash_count) == ("queued", 0)


class TestBesideThePage:
    """What app.py starts: consumers that come back when they die, and go when they are told to."""

    def command(self, lab: Lab) -> Command:
        return lambda lane: [sys.executable, str(HERE / "toy_lane.py"), *lab.toy_arguments(lane)]

    def test_a_dead_consumer_is_started_again_and_its_job_recovers(self, lab: Lab) -> None:
        workers = Workers(lab.settings, ["batch"], self.command(lab))
        try:
            job = lab.submit(ToySpec(steps=15, step_seconds=0.05))
            lab.wait_for_step(job)
            workers.processes["batch"].kill()
            row = lab.wait_for_end(job)
            assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1)
        finally:
            everyone = family(psutil.Process(workers.processes["batch"].pid))
            workers.stop()
        lab.wait("everyone to end", lambda: not survivors(everyone), seconds=2)


class TestFailures:
    def test_bad_input_found_late_names_the_field_and_is_not_tried_again(self, lab: Lab) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(fails="bad_input")))
        assert (row.state, row.error_code, row.attempt) == ("failed", "bad_input", 1)
        assert row.error_text == "The toy is broken. A whole toy. Mend it."
        failure = [event for event in lab.store.events.after(row.id, 0) if event.kind == "failure"]
        assert failure[0].payload["field"] == "fails"

    def test_a_bug_shows_a_sentence_on_the_page_and_the_traceback_in_the_log(self, lab: Lab) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(fails="bug")))
        assert row.error_code == "internal"
        assert "secret detail" not in (row.error_text or "")
        assert "Traceback" not in (row.error_text or "")
        log = (lab.settings.jobs / row.id / "attempt-1.log").read_text()
        assert "Traceback" in log
        assert "secret detail" in log

    def test_a_stored_spec_that_is_no_spec_is_refused_before_it_runs(self, lab: Lab) -> None:
        job = lab.submit(ToySpec(), ring=False)
        with sqlite3.connect(lab.settings.data / "lab.db") as connection:
            connection.execute("update jobs set spec = ? where id = ?", ('{"kind": "toy", "rm": "-rf"}', job))
        lab.start()
        row = lab.wait_for_end(job)
        assert (row.state, row.error_code) == ("failed", "bad_input")
        assert lab.steps(job) == []


class TestBells:
    def test_many_bells_for_one_job_run_it_once(self, lab: Lab) -> None:
        job = lab.submit(ToySpec())
        for _ in range(20):
            lab.bells["batch"].ring(job)
        lab.start()
        following = lab.submit(ToySpec())
        lab.wait_for_end(following)
        assert lab.row(job).attempt == 1
        lab.check_steps(job, 3)

    def test_a_lost_bell_loses_no_job(self, lab: Lab) -> None:
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(), ring=False)).state == "succeeded"

    def test_two_consumers_share_the_work_without_running_a_job_twice(self, lab: Lab) -> None:
        lab.start()
        lab.start()
        jobs = [lab.submit(ToySpec(steps=2)) for _ in range(12)]
        for job in jobs:
            assert lab.wait_for_end(job).attempt == 1
            lab.check_steps(job, 2)


class TestLanes:
    def test_the_engine_serves_two_jobs_at_a_time_in_one_process(self, lab: Lab) -> None:
        lab.start("chat")
        long = lab.submit(ToySpec(kind="toychat", steps=100, step_seconds=0.05))
        engine = lab.wait_for_step(long)
        short = lab.submit(ToySpec(kind="toychat"))
        assert lab.wait_for_end(short).state == "succeeded"
        assert lab.steps(short)[0][2] == engine
        assert lab.row(long).state == "running"
        lab.store.jobs.request_cancel(long)
        assert lab.wait_for_end(long).state == "cancelled"
