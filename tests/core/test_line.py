"""Who is next in the line, and about when: by hand, and whatever the line looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.line import FIRST, HIGH, LOW, Held, Line, Pace, Standing, Waiting, seconds_of, spread


def job(name: str, turn: float = 0.0, **fields: object) -> Waiting:
    """A job of the person with the name's first letter."""
    return Waiting(name, name[0], **{"turn": turn, **fields})  # type: ignore[arg-type]


def names(line: Line) -> list[str]:
    return list(line.in_order())


def test_people_take_turns_however_many_jobs_one_of_them_sent_before() -> None:
    waiting = [job(f"a{n}", n) for n in range(3)] + [job("b0", 10), job("b1", 11), job("c0", 12)]
    assert names(Line(waiting)) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_whoever_was_served_longest_ago_is_next() -> None:
    waiting = [job("a0", 0), job("b0", 1), job("c0", 2)]
    assert names(Line(waiting, served={"a": 30.0, "b": 20.0})) == ["c0", "b0", "a0"]


def test_whoever_has_less_running_goes_before_whoever_was_served_longer_ago() -> None:
    line = Line([job("a0"), job("b0")], [Held("a", None)], served={"a": 1.0, "b": 2.0}, places=2)
    assert names(line) == ["b0", "a0"]


def test_a_priority_moves_a_job_among_its_owners_only() -> None:
    waiting = [job("a0", 0), job("a1", 1, priority=HIGH), job("b0", 2, priority=LOW), job("b1", 3)]
    assert names(Line(waiting)) == ["a1", "b1", "a0", "b0"]


def test_what_an_operator_put_first_goes_before_everybody() -> None:
    waiting = [job("a0", 0), job("b0", 1), job("b1", 2, priority=FIRST)]
    assert names(Line(waiting, [Held("b")], served={"b": 99.0}))[0] == "b1"


def test_starts_are_told_from_what_runs_and_what_goes_before() -> None:
    waiting = [job("a0", 0, seconds=30.0), job("a1", 1, seconds=10.0), job("a2", 2)]
    line = Line(waiting, [Held("b", 60.0), Held("c", 80.0)], places=2)
    assert line.in_order() == {"a0": Standing(1, 60.0), "a1": Standing(2, 80.0), "a2": Standing(3, 90.0)}


def test_a_start_that_depends_on_the_unknown_is_unknown() -> None:
    assert Line([job("a0"), job("a1", 1)], [Held("b", 5.0)]).in_order() == {
        "a0": Standing(1, 5.0),
        "a1": Standing(2, None),
    }
    assert Line([job("a0")], [Held("b")]).in_order() == {"a0": Standing(1, None)}


def test_a_free_place_starts_the_next_job_now() -> None:
    assert Line([job("a0")], places=1).in_order() == {"a0": Standing(1, 0.0)}


def test_a_short_job_does_not_wait_behind_an_hour_of_training() -> None:
    waiting = [job("a0", 0, seconds=3600.0), job("b0", 1, seconds=20.0, is_short=True)]
    line = Line(waiting, [Held("c", 3600.0)], places=1, short_places=1)
    assert line.in_order() == {"b0": Standing(1, 0.0), "a0": Standing(2, 3600.0)}


def test_a_long_job_never_takes_the_place_for_short_ones() -> None:
    line = Line([job("a0")], [Held("c", 60.0)], places=1, short_places=1)
    assert line.in_order() == {"a0": Standing(1, 60.0)}


def test_nobody_has_more_running_than_allowed_and_the_place_goes_to_others() -> None:
    waiting = [job("a0", 0), job("a1", 1), job("b0", 2)]
    line = Line(waiting, [Held("a", 60.0)], places=2, most_running=1)
    assert line.in_order() == {"b0": Standing(1, 0.0), "a0": Standing(2, 60.0), "a1": Standing(3, None)}


PEOPLE = st.sampled_from("abcd")
WAITING = st.lists(
    st.builds(
        lambda owner, priority, turn, seconds, is_short: (owner, priority, turn, seconds, is_short),
        PEOPLE,
        st.sampled_from([LOW, 0, HIGH]),
        st.integers(0, 5),
        st.none() | st.integers(1, 50),
        st.booleans(),
    ),
    max_size=20,
).map(
    lambda rows: [
        Waiting(f"{owner}{n}", owner, priority, float(turn), 0.0, None, seconds, is_short)
        for n, (owner, priority, turn, seconds, is_short) in enumerate(rows)
    ]
)
LINES = st.builds(
    Line,
    WAITING,
    st.lists(st.builds(Held, PEOPLE, st.none() | st.integers(0, 50), st.booleans()), max_size=4),
    st.dictionaries(PEOPLE, st.integers(1, 9).map(float)),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 2),
)


@given(LINES)
def test_everybody_in_the_line_stands_somewhere_once(line: Line) -> None:
    standings = line.in_order()
    assert set(standings) == {job.id for job in line.waiting}
    assert [one.position for one in standings.values()] == list(range(1, len(standings) + 1))


@given(LINES)
def test_starts_never_go_back_along_the_line(line: Line) -> None:
    starts = [one.starts_in for one in line.in_order().values()]
    known = [start for start in starts if start is not None]
    assert starts[: len(known)] == sorted(known)


@given(WAITING)
def test_within_a_person_the_order_is_priority_then_own_order_then_age(waiting: list[Waiting]) -> None:
    place = Line(waiting).in_order()
    for owner in "abcd":
        mine = sorted((job for job in waiting if job.owner == owner), key=lambda job: place[job.id].position)
        assert mine == sorted(mine, key=lambda job: job.own_order)


@given(WAITING)
def test_nobody_is_served_twice_while_another_waits(waiting: list[Waiting]) -> None:
    """With one place: between two jobs of one person, everybody who still waits has had one."""
    order = names(Line(waiting))
    for at, name in enumerate(order):
        for later in range(at + 1, len(order)):
            if order[later][0] == name[0]:
                between = {one[0] for one in order[at + 1 : later]}
                assert {one[0] for one in order[later:]} - {name[0]} <= between
                break


def test_a_kind_takes_as_long_as_its_median_job_and_expectations_are_corrected_by_what_became_of_them() -> (
    None
):
    pace = Pace([("tune", 100.0, 10.0), ("tune", 50.0, 5.0), ("tune", None, 7.0), ("merge", None, 3.0)])
    assert pace.seconds("tune", 1000.0) == pytest.approx(100.0)
    assert pace.seconds("tune", None) == 7.0
    assert pace.seconds("merge", 30.0) == 30.0
    assert pace.seconds("score", None) is None


def test_only_a_number_of_seconds_is_an_expectation() -> None:
    class Plan:
        seconds = 3

    assert seconds_of(Plan()) == 3.0
    assert seconds_of(None) is None
    assert seconds_of(7) is None


def test_jobs_of_one_moment_can_change_places() -> None:
    assert spread([5.0, 5.0, 4.0]) == [4.0, 5.0, 5.0 + 1e-5]
