"""The line in the database: claims come in the order that people are told, pauses hold, turns are kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clocked_store import open_with_clock, pass_time, wish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import Backend
from sqlalchemy import text

from lab.core.line import FIRST, HIGH, LOW, Standing
from lab.core.settings import Settings
from lab.core.store import Store, Success
from lab.core.store.rows import JobRow


@pytest.fixture
def store(database: Backend, tmp_path: Path) -> Iterator[Store]:
    store = open_with_clock(database.settings(tmp_path).database)
    yield store
    store.close()


def queue(store: Store, name: str, **fields: object) -> str:
    """Queue a job of the person with the name's first letter, a second after the last one."""
    pass_time(store, 1)
    return store.jobs.insert(wish(name, owner=name[0], title=name, **fields))[0].id


def claim(store: Store, **how: object) -> JobRow | None:
    pass_time(store, 1)
    return store.jobs.claim("batch", "w", "cpu", **how)  # type: ignore[arg-type]


def titles(store: Store) -> list[str]:
    """Claim and finish until nothing waits."""
    order = []
    while job := claim(store):
        order.append(job.title)
        store.jobs.succeed(job.id, job.attempt, Success())
    return order


def standing_titles(store: Store) -> list[str]:
    return [store.jobs.get(job).title for job in store.line.standings("batch")]


def test_people_take_turns_with_one_place_and_nobody_starves(store: Store) -> None:
    for name in ("a0", "a1", "a2", "a3", "b0", "b1", "c0"):
        queue(store, name)
    assert titles(store) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_newcomer_goes_before_the_second_job_of_whoever_filled_the_queue(store: Store) -> None:
    for number in range(5):
        queue(store, f"a{number}")
    first = claim(store)
    assert first is not None
    queue(store, "b0")
    store.jobs.succeed(first.id, 1, Success())
    assert titles(store)[:2] == ["b0", "a1"]


def test_what_an_operator_put_first_is_claimed_before_everything(store: Store) -> None:
    claim_of_b = queue(store, "b0")
    assert claim(store).id == claim_of_b  # type: ignore[union-attr]
    queue(store, "a0")
    last = queue(store, "b1")
    store.line.prefer(last, FIRST)
    assert titles(store) == ["b1", "a0"]


def test_an_owners_order_is_priority_then_own_order_then_age(store: Store) -> None:
    jobs = {name: queue(store, name) for name in ("a0", "a1", "a2", "a3")}
    store.line.prefer(jobs["a0"], LOW)
    store.line.prefer(jobs["a3"], HIGH)
    store.line.move(jobs["a2"], -1)
    assert standing_titles(store) == ["a3", "a2", "a1", "a0"]
    assert titles(store) == ["a3", "a2", "a1", "a0"]


def test_a_moved_job_takes_over_the_priority_of_those_that_it_stands_among(store: Store) -> None:
    jobs = {name: queue(store, name) for name in ("a0", "a1", "a2")}
    store.line.prefer(jobs["a0"], HIGH)
    store.line.move(jobs["a2"], -2)
    assert standing_titles(store) == ["a2", "a0", "a1"]
    assert [store.jobs.get(job).priority for job in jobs.values()] == [HIGH, 0, HIGH]
    store.line.move(jobs["a2"], 99)
    assert standing_titles(store) == ["a0", "a1", "a2"]
    assert store.jobs.get(jobs["a2"]).priority == 0


def test_jobs_of_the_same_moment_can_change_places(store: Store) -> None:
    ids = [store.jobs.insert(wish(f"a{n}", owner="a"))[0].id for n in range(4)]
    order = list(store.line.standings("batch"))
    assert sorted(order) == sorted(ids)
    store.line.move(order[3], -3)
    assert list(store.line.standings("batch")) == [order[3], *order[:3]]


def test_moving_leaves_other_people_running_and_ended_jobs_alone(store: Store) -> None:
    running = queue(store, "a0")
    assert claim(store)
    mine, other = queue(store, "a1"), queue(store, "b0")
    before = {job: store.jobs.get(job) for job in (running, other)}
    for job in (running, mine, "no such job"):
        store.line.move(job, -1)
    assert {job: store.jobs.get(job) for job in before} == before


def test_a_paused_lane_starts_nothing_and_lets_running_jobs_end(store: Store) -> None:
    queue(store, "a0")
    held = claim(store)
    assert held is not None
    waiting = queue(store, "a1")
    store.line.pause(["batch"], "ada")
    assert claim(store) is None
    assert store.line.standings("batch") == {waiting: Standing(1, None)}
    store.jobs.succeed(held.id, 1, Success())
    queue(store, "b0", lane="chat")
    assert store.jobs.claim("chat", "w", "cpu") is not None
    assert claim(store) is None
    store.line.resume(["batch", "chat"])
    assert titles(store) == ["a1"]


def test_a_pause_keeps_its_first_moment_and_outlives_a_restart(store: Store) -> None:
    store.line.pause(["batch"], "ada")
    since = store.line.pauses()["batch"].since
    pass_time(store, 60)
    store.line.pause(["batch", "chat"], "bob")
    again = Store(store.database.engine.url.render_as_string(hide_password=False), now=store.database.now)
    paused = again.line.pauses()
    again.close()
    assert [(one.lane, one.owner, one.since) for one in paused.values()] == [
        ("batch", "ada", since),
        ("chat", "bob", since + 60),
    ]


def test_the_place_for_short_jobs_takes_no_other_and_the_next_short_one(store: Store) -> None:
    queue(store, "a0")
    queue(store, "a1", is_short=True)
    queue(store, "b0", is_short=True)
    assert [job.title for job in (claim(store, only_short=True), claim(store, only_short=True)) if job] == [
        "a1",
        "b0",
    ]
    assert claim(store, only_short=True) is None
    assert claim(store).title == "a0"  # type: ignore[union-attr]


def test_nobody_gets_more_running_than_allowed_and_others_go_on(store: Store) -> None:
    for name in ("a0", "a1", "b0"):
        queue(store, name)
    claimed = [claim(store, most_running=1) for _ in range(3)]
    assert [job.title for job in claimed if job] == ["a0", "b0"]
    assert claimed[0] is not None
    store.jobs.fail(claimed[0].id, 1, "bug", "it broke")
    assert claim(store, most_running=1).title == "a1"  # type: ignore[union-attr]


def test_one_persons_failing_jobs_never_stop_the_others(store: Store) -> None:
    for name in ("a0", "b0", "a1", "b1"):
        queue(store, name)
    done = []
    while job := claim(store):
        if job.owner == "a":
            store.jobs.fail(job.id, 1, "bug", "it broke")
        else:
            store.jobs.succeed(job.id, 1, Success())
            done.append(job.title)
    assert done == ["b0", "b1"]


def test_starts_are_told_from_what_running_jobs_say_and_how_long_such_jobs_took(store: Store) -> None:
    queue(store, "a0")
    first = claim(store)
    assert first is not None
    pass_time(store, 40)
    store.jobs.succeed(first.id, 1, Success())
    queue(store, "a1")
    held = claim(store)
    assert held is not None
    second, third = queue(store, "a2"), queue(store, "a3")
    unknown = queue(store, "a4", kind="tune")
    behind = queue(store, "a5")
    store.workers.beat("w", "batch", "host", "cpu", places=(1, 0))
    now = store.database.time()
    spent = now - (store.jobs.get(held.id).started or 0)
    starts = {job: one.starts_in for job, one in store.line.standings("batch").items()}
    assert starts == {second: 40 - spent, third: 80 - spent, unknown: 120 - spent, behind: None}


def test_without_workers_the_order_is_known_and_the_start_is_not(store: Store) -> None:
    job = queue(store, "a0", expected_seconds=5.0)
    assert store.line.standings("batch") == {job: Standing(1, None)}


def test_an_old_databases_waiting_jobs_stand_in_the_order_of_their_age(
    database: Backend, tmp_path: Path
) -> None:
    store = open_with_clock(database.settings(tmp_path).database)
    names = [queue(store, f"a{number}") for number in range(3)]
    with store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET turn = created"))
    assert list(store.line.standings("batch")) == names
    store.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([LOW, 0, 0, HIGH, FIRST]),
        st.booleans(),
        st.integers(1, 40),
        st.integers(-3, 3),
    ),
    max_size=10,
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, places=st.integers(1, 2), short=st.integers(0, 1), most=st.integers(0, 2))
def test_jobs_are_claimed_in_the_order_that_people_are_told(
    database: Backend,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, bool, int, int]],
    places: int,
    short: int,
    most: int,
) -> None:
    """Play the lane with real claims, each job taking as long as was expected of it."""
    url = database.postgres.fresh() if database.postgres else ""
    store = open_with_clock(Settings(data=tmp_path_factory.mktemp("d"), database_url=url).database)
    store.workers.beat("w", "batch", "host", "cpu", places=(places, short))
    for number, (owner, priority, is_short, seconds, moved) in enumerate(steps):
        job = queue(store, f"{owner}{number}", is_short=is_short, expected_seconds=float(100 * seconds))
        store.line.prefer(job, priority)
        store.line.move(job, moved)
    told = list(store.line.standings("batch", most))
    assert play(store, [False] * places + [True] * short, most) == told
    store.close()


def play(store: Store, idle: list[bool], most: int) -> list[str]:
    """Give every free place its next job, end the job that ends first, and so on; return what was claimed."""
    order: list[str] = []
    running: list[tuple[float, int, bool, JobRow]] = []
    now = 0.0
    while True:
        for place in sorted(idle):
            pass_time(store, 0.001)
            if job := store.jobs.claim("batch", "w", "cpu", only_short=place, most_running=most):
                idle.remove(place)
                order.append(job.id)
                running.append((now + (job.expected_seconds or 0), len(order), place, job))
        if not running:
            return order
        running.sort(key=lambda one: one[:2])
        now, _, place, job = running.pop(0)
        store.jobs.fail(job.id, job.attempt, "bug", "it ends")  # failed jobs teach no pace
        idle.append(place)
