"""What happens when processes die, hang or race: toy jobs, real processes, short leases."""

import signal
import sqlite3
import sys
import time

import psutil
import pytest
from toy_kind import ToySpec
from worked_lab import HERE, Lab, family, survivors

from workers.start import Command, Workers

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(60)]

LONG = ToySpec(steps=1000, step_seconds=0.05)


def assert_each_step_once(lab: Lab, job_id: str, steps: int) -> None:
    done = [step for step, _, _ in lab.steps(job_id)]
    assert sorted(set(done)) == list(range(steps))
    assert len(done) <= steps + lab.row(job_id).crash_count  # a crash repeats the step it cut off, no more


def suspend_between_writes(lab: Lab, processes: list[psutil.Process]) -> None:
    """Stop processes at a moment when none of them holds SQLite's one write lock."""
    while True:
        for process in processes:
            process.suspend()
        try:
            with sqlite3.connect(lab.settings.data / "lab.db", timeout=0.2, isolation_level=None) as probe:
                probe.execute("begin immediate")
                probe.execute("rollback")
        except sqlite3.OperationalError:
            for process in processes:
                process.resume()
            time.sleep(0.01)
        else:
            return


class TestDeadProcesses:
    def test_a_killed_child_is_replaced_at_once_and_goes_on_where_it_was(self, lab: Lab) -> None:
        lab.start()
        job = lab.submit(ToySpec(steps=20, step_seconds=0.05))
        child = lab.wait_for_step(job)
        killed = time.monotonic()
        psutil.Process(child).kill()
        lab.wait_for_step(job, attempt=2)
        assert time.monotonic() - killed < 5
        row = lab.wait_for_end(job)
        assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1)
        assert_each_step_once(lab, job, 20)
        lab.check_events(job)
        assert lab.states(job) == ["queued", "running", "queued", "running", "succeeded"]

    def test_a_killed_consumer_takes_its_children_along_and_the_next_one_recovers_its_job(
        self, lab: Lab
    ) -> None:
        first = lab.start()
        job = lab.submit(ToySpec(steps=15, step_seconds=0.05))
        lab.wait_for_step(job)
        everyone = family(first)
        first.kill()
        lab.wait("orphans to end", lambda: not survivors(everyone), seconds=2)
        lab.start()
        row = lab.wait_for_end(job)
        assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1)
        assert_each_step_once(lab, job, 15)
        lab.check_events(job)

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

    def test_a_job_that_kills_its_process_three_times_is_poison(self, lab: Lab) -> None:
        lab.start()
        job = lab.submit(ToySpec(fails="exit"))
        row = lab.wait_for_end(job)
        assert (row.state, row.error_code, row.crash_count) == ("failed", "poison", 3)
        assert "SIGKILL" in (row.error_text or "")
        lab.check_events(job)

    def test_a_job_that_cannot_go_on_midway_fails_and_says_so(self, lab: Lab) -> None:
        lab.start("chat")
        job = lab.submit(ToySpec(kind="toychat", steps=100, step_seconds=0.05))
        psutil.Process(lab.wait_for_step(job)).kill()
        row = lab.wait_for_end(job)
        assert (row.state, row.error_code) == ("failed", "interrupted")
        again = lab.submit(ToySpec(kind="toychat"))
        assert lab.wait_for_end(again).state == "succeeded"  # the engine is back


class TestShutdown:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
    def test_a_stopped_worker_gives_its_job_back_without_counting_a_crash(self, lab: Lab, name: str) -> None:
        first = lab.start()
        job = lab.submit(ToySpec(steps=15, step_seconds=0.05))
        lab.wait_for_step(job)
        everyone = family(first)
        first.send_signal(getattr(signal, name))
        lab.wait("everyone to end", lambda: not survivors(everyone), seconds=5)
        row = lab.row(job)
        assert (row.state, row.crash_count) == ("queued", 0)
        lab.start()
        row = lab.wait_for_end(job)
        assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 0)
        assert_each_step_once(lab, job, 15)

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


class TestCancel:
    def test_a_running_job_notices_within_two_seconds(self, lab: Lab) -> None:
        lab.start()
        job = lab.submit(LONG)
        lab.wait_for_step(job)
        lab.store.jobs.request_cancel(job)
        row = lab.wait_for_end(job, seconds=2)
        assert row.state == "cancelled"
        lab.wait("its work to be removed", lambda: not (lab.settings.jobs / job / "work").exists(), 2)

    def test_a_job_that_ignores_it_is_killed(self, lab: Lab) -> None:
        lab.start()
        job = lab.submit(ToySpec(steps=1, step_seconds=60, deaf=True))
        lab.wait("the job to run", lambda: lab.row(job).state == "running")
        lab.store.jobs.request_cancel(job)
        assert lab.wait_for_end(job, seconds=5).state == "cancelled"
        following = lab.submit(ToySpec())
        assert lab.wait_for_end(following).state == "succeeded"

    def test_a_deaf_chat_job_is_killed_and_the_engine_comes_back(self, lab: Lab) -> None:
        lab.start("chat")
        job = lab.submit(ToySpec(kind="toychat", steps=1, step_seconds=60, deaf=True))
        lab.wait("the job to run", lambda: lab.row(job).state == "running")
        lab.store.jobs.request_cancel(job)
        assert lab.wait_for_end(job, seconds=5).state == "cancelled"
        following = lab.submit(ToySpec(kind="toychat"))
        assert lab.wait_for_end(following).state == "succeeded"

    def test_stop_keeps_what_there_is(self, lab: Lab) -> None:
        lab.start()
        job = lab.submit(LONG)
        lab.wait_for_step(job)
        lab.store.jobs.request_stop(job)
        row = lab.wait_for_end(job, seconds=3)
        assert (row.state, row.stopped_early) == ("succeeded", True)


class TestZombies:
    def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_wakes(self, lab: Lab) -> None:
        zombie = lab.start()
        job = lab.submit(ToySpec(steps=25, step_seconds=0.05, makes="once"))
        lab.wait_for_step(job)
        everyone = family(zombie)
        suspend_between_writes(lab, everyone)
        steps_before = len(lab.steps(job, attempt=1))
        lab.start()
        lab.wait_for_step(job, attempt=2)
        for process in everyone:
            process.resume()
        row = lab.wait_for_end(job)
        assert (row.state, row.attempt) == ("succeeded", 2)
        assert len(lab.steps(job, attempt=1)) <= steps_before + 1
        assert [model.name for model in lab.store.models.list()] == ["once"]
        lab.check_events(job)

    def test_a_hung_job_is_killed_and_tried_again(self, lab: Lab) -> None:
        lab.start(stall=1.5)
        job = lab.submit(ToySpec(steps=2, fails="silence"))
        lab.wait("a second attempt", lambda: lab.row(job).attempt >= 2, seconds=12)
        told = [event.payload for event in lab.store.events.after(job, 0) if event.kind == "state"]
        assert any("said nothing" in state["why"] for state in told)


class TestPublishing:
    def test_a_crash_between_rename_and_commit_publishes_once(self, lab: Lab) -> None:
        lab.start(failpoint="placed:1:kill")
        job = lab.submit(ToySpec(makes="mine"))
        row = lab.wait_for_end(job)
        assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1)
        assert [model.name for model in lab.store.models.list()] == ["mine"]
        assert [path.name for path in lab.settings.models.iterdir()] == ["mine"]
        assert_each_step_once(lab, job, 3)
        assert row.result == {"steps": 3}

    def test_a_crash_before_publishing_publishes_once(self, lab: Lab) -> None:
        lab.start(failpoint="worked:1:kill")
        job = lab.submit(ToySpec(makes="mine"))
        assert lab.wait_for_end(job).state == "succeeded"
        assert [model.name for model in lab.store.models.list()] == ["mine"]

    def test_a_full_disk_fails_in_words_and_leaves_nothing(self, lab: Lab) -> None:
        lab.start(failpoint="worked:enospc")
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine")))
        assert (row.state, row.error_code) == ("failed", "disk_full")
        assert "Free some space" in (row.error_text or "")
        assert list(lab.settings.models.iterdir()) == []
        lab.wait("its work to be removed", lambda: not (lab.settings.jobs / row.id / "work").exists(), 2)


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
        assert_each_step_once(lab, job, 3)

    def test_a_lost_bell_loses_no_job(self, lab: Lab) -> None:
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(), ring=False)).state == "succeeded"

    def test_a_forged_message_harms_nobody(self, lab: Lab) -> None:
        with sqlite3.connect(lab.settings.data / "queue.db") as connection:
            for data in (b"\x80\x04N.", b"x" * 10_000, b'{"id": "1", "task": "os.system", "job": "ls"}'):
                connection.execute(
                    "insert into task (queue, data, priority) values ('lab-batch', ?, 0)", (data,)
                )
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec())).state == "succeeded"

    def test_two_consumers_share_the_work_without_running_a_job_twice(self, lab: Lab) -> None:
        lab.start()
        lab.start()
        jobs = [lab.submit(ToySpec(steps=2)) for _ in range(12)]
        for job in jobs:
            assert lab.wait_for_end(job).attempt == 1
            assert_each_step_once(lab, job, 2)


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
