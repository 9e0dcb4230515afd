"""lab/score/significance: worked by hand, and against exhaustive counting."""

import itertools

import pytest
import torch

from lab.score.significance import (
    Difference,
    Flips,
    difference_sentence,
    flips,
    flips_sentence,
    items_needed,
    mcnemar_p,
    paired_difference,
    points_shown,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_flips_count_what_was_fixed_and_what_was_broken():
    assert flips([0, 0, 1, 1, 0], [1, 1, 0, 1, 0]) == Flips(fixed=2, broken=1, n=5)


def test_flips_of_answers_to_different_questions_are_refused():
    with pytest.raises(ValueError):
        flips([0, 1], [1])


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [
        (5, 2, 2 * (1 + 7 + 21) / 2**7),
        (9, 1, 2 * (1 + 10) / 2**10),
        (0, 6, 2 / 2**6),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_exact_sign_test_of_the_flips(fixed, broken, p):
    assert mcnemar_p(fixed, broken) == pytest.approx(p, abs=1e-12)
    assert mcnemar_p(broken, fixed) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(("share", "points", "items"), [(0.2, 10, 157), (0.2, 5, 628), (0.1, 10, 79)])
def test_items_needed_has_the_worked_values(share, points, items):
    assert items_needed(share, points) == items


def test_forty_items_show_about_twenty_points():
    assert points_shown(0.2, 40) == pytest.approx(19.8, abs=0.05)


def test_a_difference_within_noise_says_how_many_items_would_tell():
    assert flips_sentence("D", "A", Flips(5, 2, 40)) == (
        "D against A: 5 fixed, 2 broken of 40; not distinguishable from noise (McNemar p = 0.45). "
        "157 items would show a difference of 10 points."
    )


def test_enough_items_say_what_they_would_show():
    words = flips_sentence("D", "A", Flips(50, 49, 1000))
    assert words.endswith("These 1,000 items would show a difference of 2.8 points.")


def test_a_difference_beyond_noise_says_which_way():
    assert flips_sentence("D", "A", Flips(9, 1, 40)) == (
        "D against A: 9 fixed, 1 broken of 40; better, and more than noise (McNemar p = 0.021)."
    )
    assert "worse, and more than noise" in flips_sentence("D", "A", Flips(0, 12, 40))


def test_no_flips_at_all_do_not_promise_certainty():
    words = flips_sentence("B", "A", Flips(0, 0, 40))
    assert "0 fixed, 0 broken of 40; not distinguishable" in words
    assert "These 40 items would show a difference of 7.0 points." in words  # one flip is taken as seen


def test_a_paired_difference_is_a_ratio_of_totals():
    gap = paired_difference([10.0, 20.0], [9.0, 17.0], [2.0, 6.0], seeded())
    assert gap.value == pytest.approx(-4 / 8)
    assert (gap.low, gap.high) == (pytest.approx(-0.5), pytest.approx(-0.5))  # -1/2 and -3/6: all the same
    assert gap.n == 2


def test_the_permutation_p_approaches_the_count_over_all_signs():
    gaps = [0.3, 0.1, 0.4, -0.1, 0.5, 0.9, -0.2, 0.6]
    observed = abs(sum(gaps))
    signs = itertools.product([-1, 1], repeat=len(gaps))
    exact = sum(abs(sum(s * g for s, g in zip(row, gaps, strict=True))) >= observed - 1e-12 for row in signs)
    p = paired_difference([0.0] * 8, gaps, [1.0] * 8, seeded()).p
    assert p == pytest.approx(exact / 2**8, abs=0.006)


def test_five_texts_can_never_be_more_than_noise():
    gap = paired_difference([5.0] * 5, [1.0] * 5, [1.0] * 5, seeded())
    assert gap.p == pytest.approx(2 / 2**5, abs=0.01)
    words = difference_sentence("B", "A", "bits per byte", gap)
    assert "-4.0000 bits per byte (-4.0000 to -4.0000) over 5 texts; not distinguishable" in words
    assert words.endswith("Fewer than 6 texts can never show more.")


def test_fewer_bits_are_better():
    better = Difference(value=-0.1, low=-0.2, high=-0.05, p=0.004, n=60)
    assert difference_sentence("B", "A", "bits per byte", better) == (
        "B against A: -0.1000 bits per byte (-0.2000 to -0.0500) over 60 texts; "
        "better, and more than noise (sign flips, p = 0.004)."
    )


def test_sizes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 items but 1 sizes"):
        paired_difference([1.0, 2.0], [1.0, 2.0], [1.0], seeded())
