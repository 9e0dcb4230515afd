"""lab/score/metrics/choices: worked by hand."""

import pytest
import torch

from lab.score.metric import ChoiceLikelihoods, metrics

GENERATOR = torch.Generator()

# The short answer is likelier, the long one is likelier per character: -3 / 3 = -1, -4 / 8 = -0.5.
SHORT_OR_LONG = ChoiceLikelihoods((-3.0, -4.0), ("yes", "perhaps!"), answer=1)
PLAIN = ChoiceLikelihoods((-5.0, -1.0, -2.0), ("one", "two", "six"), answer=1)
WRONG = ChoiceLikelihoods((-0.5, -1.0), ("up", "at"), answer=1)


def test_accuracy_counts_questions_whose_right_answer_is_likeliest():
    score = metrics["accuracy"].measure([SHORT_OR_LONG, PLAIN, WRONG, PLAIN], GENERATOR)
    assert score.value == 0.5
    assert score.n == 4
    assert score.parts == (0.0, 1.0, 0.0, 1.0)


def test_normalised_accuracy_divides_by_characters():
    score = metrics["accuracy_normalised"].measure([SHORT_OR_LONG, PLAIN, WRONG, PLAIN], GENERATOR)
    assert score.value == 0.75
    assert score.parts == (1.0, 1.0, 0.0, 1.0)


def test_characters_are_counted_not_bytes():
    # 4 characters but 8 bytes: -4 / 4 = -1 loses to -3.6 / 4 = -0.9; by bytes it would win.
    item = ChoiceLikelihoods((-4.0, -3.6), ("äöüß", "four"), answer=1)
    assert metrics["accuracy_normalised"].measure([item], GENERATOR).value == 1.0


def test_a_draw_goes_to_the_first_choice():
    drawn = ChoiceLikelihoods((-1.0, -1.0), ("a", "b"), answer=1)
    assert metrics["accuracy"].measure([drawn], GENERATOR).value == 0.0


def test_the_interval_is_wilsons_and_stays_inside_0_and_1():
    score = metrics["accuracy"].measure([PLAIN] * 3, GENERATOR)
    assert score.value == 1.0
    assert (score.low, score.high) == (pytest.approx(3 / (3 + 1.959964**2), abs=1e-6), 1.0)


@pytest.mark.parametrize("name", ["accuracy", "accuracy_normalised", "bits_per_byte"])
def test_nothing_to_measure_is_an_error(name):
    with pytest.raises(ValueError, match="at least one"):
        metrics[name].measure([], GENERATOR)


@pytest.mark.parametrize("metric", metrics.values(), ids=lambda metric: metric.name)
def test_every_metric_says_where_it_is_from_and_what_it_is(metric):
    assert metric.source
    assert metric.label
    assert metric.words.endswith(".")
