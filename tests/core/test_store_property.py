"""Whatever happens to jobs in whatever order, four promises hold."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from servers import Backend
from test_store_jobs import open_with_clock, pass_time, wish

from lab.core.errors import Conflict, Fenced
from lab.core.events import NewEvent
from lab.core.settings import Settings
from lab.core.store import Success
from lab.core.store.rows import TERMINAL


class JobsMachine(RuleBasedStateMachine):
    """Clients, workers, reapers and zombies, all at once."""

    jobs = Bundle("jobs")

    def __init__(self, database: Backend) -> None:
        super().__init__()
        self.database = database
        self.folder = tempfile.TemporaryDirectory()
        self.url = database.postgres.fresh() if database.postgres else ""
        self.store = open_with_clock(Settings(data=Path(self.folder.name), database_url=self.url).database)
        self.ended: dict[str, str] = {}
        self.published: list[str] = []
        self.held: list[tuple[str, int]] = []

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(target=jobs, key=st.integers(0, 5), resumable=st.booleans())
    def submit(self, key: int, resumable: bool) -> str:
        return self.store.jobs.insert(wish(str(key), resumable=resumable))[0].id

    @rule()
    def claim(self) -> None:
        job = self.store.jobs.claim("batch", "w", "cpu")
        if job:
            assert job.id not in self.ended
            self.held.append((job.id, job.attempt))

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.store.jobs.request_cancel(job)

    @rule(seconds=st.sampled_from([1, 8, 16]))
    def time_passes(self, seconds: int) -> None:
        pass_time(self.store, seconds)
        self.store.jobs.reap()

    @rule(
        pick=st.integers(0, 30),
        what=st.sampled_from(["say", "beat", "succeed", "fail", "crash", "release", "cancelled"]),
    )
    def an_attempt_old_or_new_acts(self, pick: int, what: str) -> None:
        if not self.held:
            return
        job, attempt = self.held[pick % len(self.held)]
        acts = {
            "say": lambda: self.store.jobs.append(job, attempt, [NewEvent("note", {"text": "x"})] * 2),
            "beat": lambda: self.store.jobs.heartbeat(job, attempt),
            "succeed": lambda: self.published.append(self.store.jobs.succeed(job, attempt, Success()).id),
            "fail": lambda: self.store.jobs.fail(job, attempt, "x", "y"),
            "crash": lambda: self.store.jobs.crashed(job, attempt, "died", "crashed", "died"),
            "release": lambda: self.store.jobs.release(job, attempt, "bye"),
            "cancelled": lambda: self.store.jobs.cancelled(job, attempt),
        }
        try:
            acts[what]()
        except (Fenced, Conflict):
            return

    @invariant()
    def an_ended_job_stays_as_it_ended(self) -> None:
        for job in self.store.jobs.list(states=TERMINAL):
            assert self.ended.setdefault(job.id, job.state) == job.state
        for job_id, state in self.ended.items():
            assert self.store.jobs.get(job_id).state == state

    @invariant()
    def events_have_no_gap(self) -> None:
        for job in self.store.jobs.list():
            seqs = [event.seq for event in self.store.events.after(job.id, 0)]
            assert seqs == list(range(1, job.last_seq + 1))

    @invariant()
    def nothing_is_published_twice(self) -> None:
        assert len(self.published) == len(set(self.published))


@pytest.mark.timeout(120)
def test_four_promises_hold_whatever_happens(database: Backend) -> None:
    run_state_machine_as_test(
        lambda: JobsMachine(database),
        settings=settings(
            max_examples=20 if database.postgres else 60,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
