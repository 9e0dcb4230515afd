"""Held-out rows: how many, and which."""

import pytest

from lab.data.formats import Conversation
from lab.data.split import held_out_count, split


def rows(count: int) -> list[Conversation]:
    return [
        [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 0), (4, 0), (5, 1), (20, 4), (80, 16), (160, 16), (1000, 50), (100_000, 200)]
)
def test_a_twentieth_is_held_out_between_16_and_200_but_at_most_a_fifth(count: int, expected: int) -> None:
    assert held_out_count(count) == expected


def test_the_same_rows_are_held_out_whatever_their_order() -> None:
    every = rows(100)
    one, other = split(every), split(every[::-1])
    assert {str(row) for row in one.held_out} == {str(row) for row in other.held_out}
    assert len(one.held_out) == 16


def test_every_row_is_in_exactly_one_part() -> None:
    parts = split(rows(50))
    assert sorted(map(str, [*parts.train, *parts.held_out])) == sorted(map(str, rows(50)))


def test_a_wish_is_followed_but_one_row_is_left_to_train_on() -> None:
    assert len(split(rows(10), 0).held_out) == 0
    assert len(split(rows(10), 3).held_out) == 3
    assert len(split(rows(10), 99).train) == 1
    assert len(split(rows(1), 99).train) == 1
