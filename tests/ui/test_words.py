"""Numbers as people read them."""

import pytest

from lab.ui import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0.4 s"), (5, "5 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h"),
        (7500, "2 h 5 min"), (float("nan"), "unknown"), (-1, "unknown"),
    ],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_time_left_is_said_only_when_known() -> None:
    assert words.time_left(200.4) == "3 min 20 s left"
    assert words.time_left(0.2) == "1 s left"
    assert words.time_left(None) == ""


@pytest.mark.parametrize(
    ("length", "said"),
    [(12, "12 bytes"), (9_800_000, "9.80 MB"), (269_060_552, "269 MB"), (1.08e9, "1.08 GB")],
)
def test_a_size_has_three_digits(length: float, said: str) -> None:
    assert words.size(length) == said


@pytest.mark.parametrize(
    ("number", "said"), [(12_400, "12,400"), (134_515_008, "134.5 M"), (1.24e9, "1.24 B")]
)
def test_a_count_is_short(number: float, said: str) -> None:
    assert words.count(number) == said


@pytest.mark.parametrize(
    ("age", "said"),
    [(-3, "just now"), (59, "just now"), (240, "4 min ago"), (90_000, "1 day ago"), (259_200, "3 days ago")],
)
def test_an_age_is_said_in_its_largest_unit(age: float, said: str) -> None:
    assert words.ago(1e6 - age, 1e6) == said


def test_names_are_joined_as_in_a_sentence() -> None:
    assert [words.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
