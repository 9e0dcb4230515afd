"""lab/score/spec: what a score job may say."""

import pytest
from pydantic import ValidationError

from lab.core.errors import problems_of
from lab.score.spec import ScoreSpec


def messages(**fields) -> str:
    with pytest.raises(ValidationError) as caught:
        ScoreSpec(**fields)
    return " ".join(map(str, problems_of(caught.value)))


def test_the_shipped_sets_and_float32_are_what_is_scored_unless_told_otherwise():
    spec = ScoreSpec(models=("a", "b"))
    assert (spec.multiple_choice, spec.text, spec.dtype) == ("lab:mc40", "lab:text5", "float32")
    assert spec.models_used() == ("a", "b")
    assert spec.datasets_used() == ()
    assert spec.title == "scores of a, b"


def test_own_files_are_datasets_of_the_job():
    spec = ScoreSpec(models=("a",), multiple_choice="quiz", text=None)
    assert spec.datasets_used() == ("quiz",)


def test_a_long_list_of_models_has_a_short_title():
    assert ScoreSpec(models=tuple("abcde")).title == "scores of a, b, c and 2 more"


def test_a_model_twice_is_refused():
    assert "repeated: a" in messages(models=("a", "b", "a"))


def test_nothing_to_score_on_is_refused():
    assert "nothing to score on" in messages(models=("a",), multiple_choice=None, text=None)


@pytest.mark.parametrize(
    "fields",
    [
        {"models": ()},
        {"models": tuple("abcdefghi")},
        {"models": ("a",), "limit": 0},
        {"models": ("a",), "limit": float("nan")},
        {"models": ("a",), "dtype": "float16"},
        {"models": ("a",), "context_tokens": 3},
        {"models": ("a",), "colour": "red"},
    ],
)
def test_values_out_of_bounds_are_refused(fields):
    assert messages(**fields)
