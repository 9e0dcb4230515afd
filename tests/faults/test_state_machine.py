"""Six states and ten legal transitions, whatever happens to jobs in whatever order."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clocked_store import CLOCK, REACH, open_with_clock, pass_time, wish
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
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lab.core.errors import Fenced, IllegalTransition
from lab.core.events import NewEvent
from lab.core.settings import Settings
from lab.core.store import Store, Success
from lab.core.store.rows import LEGAL, STATES, TERMINAL, JobRow, ModelRow, State
from lab.core.store.transitions import move

TEN: tuple[tuple[State, State], ...] = (
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "queued"),
    ("running", "cancelling"),
    ("cancelling", "cancelled"),
    ("cancelling", "succeeded"),
    ("cancelling", "failed"),
)
ILLEGAL = [pair for pair in itertools.product(STATES, STATES) if pair not in TEN]
CHANGE = text("UPDATE jobs SET state = :new WHERE id = :id")


@pytest.fixture
def store(database: Backend, tmp_path: Path) -> Iterator[Store]:
    store = open_with_clock(database.settings(tmp_path).database)
    yield store
    store.close()


def test_there_are_six_states_and_ten_legal_transitions() -> None:
    assert (len(STATES), frozenset(TEN), len(ILLEGAL)) == (6, LEGAL, 26)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(*pair, marks=pytest.mark.case(f"C{n}", f"a job goes from {pair[0]} to {pair[1]}"))
        for n, pair in enumerate(TEN, 1)
    ],
)
def test_a_legal_transition_is_made_once_by_the_function_and_let_through_by_the_database(
    store: Store, old: State, new: State
) -> None:
    job = REACH[old](store)
    with suppress(ZeroDivisionError), store.database.write() as connection:
        connection.execute(CHANGE, {"new": new, "id": job.id})
        raise ZeroDivisionError  # rolls back: only the trigger was asked
    assert store.jobs.get(job.id).state == old
    with store.database.write() as connection:
        assert move(connection, CLOCK, job.id, (old,), new, []).state == new
    with pytest.raises(Fenced), store.database.write() as connection:
        move(connection, CLOCK, job.id, (old,), new, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            *pair, marks=pytest.mark.case(f"C{n}", f"nothing takes a job from {pair[0]} to {pair[1]}")
        )
        for n, pair in enumerate(ILLEGAL, 11)
    ],
)
def test_an_illegal_transition_is_refused_by_the_function_and_by_the_database(
    store: Store, old: State, new: State
) -> None:
    job = REACH[old](store)
    with pytest.raises(IllegalTransition), store.database.write() as connection:
        move(connection, CLOCK, job.id, (old,), new, [])
    with pytest.raises(IntegrityError, match="illegal transition"), store.database.write() as connection:
        connection.execute(CHANGE, {"new": new, "id": job.id})
    assert store.jobs.get(job.id) == job


class JobsMachine(RuleBasedStateMachine):
    """Clients, workers, reapers and zombies, all at once."""

    jobs = Bundle("jobs")

    def __init__(self, database: Backend) -> None:
        super().__init__()
        self.database = database
        self.folder = tempfile.TemporaryDirectory()
        self.url = database.postgres.fresh() if database.postgres else ""
        self.store = open_with_clock(Settings(data=Path(self.folder.name), database_url=self.url).database)
        self.ended: dict[str, JobRow] = {}
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
        model = ModelRow(f"m-{job}", "merge", "ada", (), "", {}, 1, "0" * 64, job, 0.0)
        acts = {
            "say": lambda: self.store.jobs.append(job, attempt, [NewEvent("note", {"text": "x"})] * 2),
            "beat": lambda: self.store.jobs.heartbeat(job, attempt),
            "succeed": lambda: self.store.jobs.succeed(job, attempt, Success(models=[model])),
            "fail": lambda: self.store.jobs.fail(job, attempt, "x", "y"),
            "crash": lambda: self.store.jobs.crashed(job, attempt, "died", "crashed", "died"),
            "release": lambda: self.store.jobs.release(job, attempt, "bye"),
            "cancelled": lambda: self.store.jobs.cancelled(job, attempt),
        }
        try:
            acts[what]()
        except Fenced:
            return
        assert attempt == max(number for owner, number in self.held if owner == job), "an old attempt wrote"
        if what == "succeed":
            self.published.append(job)

    @invariant()
    def an_ended_job_stays_as_it_ended(self) -> None:
        ended = {job.id: job for job in self.store.jobs.list(states=TERMINAL)}
        assert {**ended, **self.ended} == ended
        self.ended = ended

    @invariant()
    def events_have_no_gap(self) -> None:
        for job in self.store.jobs.list():
            seqs = [event.seq for event in self.store.events.after(job.id, 0)]
            assert seqs == list(range(1, job.last_seq + 1))

    @invariant()
    def nothing_is_published_twice(self) -> None:
        succeeded = [job.id for job in self.ended.values() if job.state == "succeeded"]
        listed = [row.job_id for row in self.store.models.list()]
        assert sorted(self.published) == sorted(succeeded) == sorted(listed)  # type: ignore[type-var]


@pytest.mark.case("C37", "clients, workers, reapers and zombies act in any order")
@pytest.mark.parametrize(
    "examples", [pytest.param(20, id="20"), pytest.param(500, id="500", marks=pytest.mark.slow)]
)
@pytest.mark.timeout(600)
def test_four_promises_hold_whatever_happens(database: Backend, examples: int) -> None:
    run_state_machine_as_test(
        lambda: JobsMachine(database),
        settings=settings(
            max_examples=examples // 4 if database.postgres else examples,  # a fresh one takes a moment
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
