"""What may move in a search is written in lines; what was found is said, with the button that merges it."""

import pytest
from ui_rows import job

from lab.core.errors import BadInput
from lab.merge.spec import merge_of
from lab.search.spec import Range
from lab.ui.searchform import found_html, lines_for, read_lines


def test_the_lines_to_start_with_are_the_methods_own_numbers() -> None:
    ties = merge_of("ties", [("pirate", 1.0), ("sums", 1.0)], name="mix", base="base")
    assert lines_for(ties) == "weight of pirate: 0 to 1\nweight of sums: 0 to 1\ndensity: 0.1 to 1"
    assert lines_for(merge_of("slerp", [("pirate", 1.0), ("sums", 1.0)], name="mix")) == "t: 0 to 1"


def test_lines_are_read_with_their_points() -> None:
    assert read_lines("weight of a-b.c: -1 to 1.5\n\n  density:  .1 to 1 in 3 points ") == (
        Range(knob="weight", model="a-b.c", low=-1, high=1.5),
        Range(knob="density", low=0.1, high=1, points=3),
    )


@pytest.mark.parametrize("text", ["weight of a 0 to 1", "weight: 0..1", "weight: 0 to nan", ""])
def test_a_line_that_says_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="weight of pirate: 0 to 1"):
        read_lines(text)


def test_what_was_found_is_shown_when_the_search_is_over_and_escaped() -> None:
    recipe = merge_of("linear", [("pirate", 0.25), ("sums", 1.0)], name="mix").model_dump(mode="json")
    found = {
        "metric": "bits_per_byte",
        "trials": 12,
        "best_trial": 7,
        "score": 0.9,
        "start_score": None,
        "values": {},
        "recipe": recipe,
    }
    html = found_html(job(kind="search", state="succeeded", result=found))
    for words in ("Best bits per byte", "0.9000", "7 of 12", "pirate 0.25", 'data-do="merge_best"'):
        assert words in html
    assert found_html(job(kind="search", state="running", result={})) == ""
