"""Whose fault is it: the merge's, or a parent's? Cases small enough to judge by eye."""

import pytest

from lab.score.blame import blame


def gaps(own: float, **parents: float) -> dict[str, dict[str, float]]:
    """Return parent minus result with a narrow interval around it."""
    return {
        name: {"value": value - own, "low": value - own - 0.001, "high": value - own + 0.001}
        for name, value in parents.items()
    }


def of(own: float, **parents: float):
    return blame("mix", {"mix": own, **parents}, gaps(own, **parents))


def test_a_merge_that_is_worse_than_every_parent_is_to_blame() -> None:
    verdict = of(2.3, a=0.9, b=1.0)
    assert verdict.who == "merge"
    assert "mix reads worse than all its parents" in verdict.sentence
    assert "(mix 2.300, a 0.900, b 1.000 bits per byte; lower is better)" in verdict.sentence


def test_a_merge_between_its_parents_is_pulled_down_by_the_weaker_one() -> None:
    verdict = of(1.2, a=0.9, b=1.9)
    assert verdict.who == "parent"
    assert "b is the weaker parent, and mix lies between a and b" in verdict.sentence


def test_a_merge_as_good_as_its_best_parent_is_sound_even_with_a_weak_one() -> None:
    assert of(0.9, a=0.9, b=0.91).who == "nobody"
    assert "though b is weak" in of(0.9, a=0.9, b=1.9).sentence


def test_a_merge_better_than_all_is_told() -> None:
    assert "reads better than all its parents" in of(0.8, a=0.9, b=1.0).sentence


def test_a_gap_that_may_be_noise_blames_nobody() -> None:
    values = {"mix": 1.3, "a": 0.9}
    unsure = {"a": {"value": -0.4, "low": -1.0, "high": 0.1}}
    assert blame("mix", values, unsure).who == "nobody"
    assert blame("mix", values, {}).who == "nobody"


def test_a_certain_gap_too_small_to_matter_blames_nobody() -> None:
    assert of(0.905, a=0.9).who == "nobody"


def test_a_verdict_takes_a_result_and_a_parent() -> None:
    with pytest.raises(ValueError, match="at least one parent"):
        blame("mix", {"mix": 1.0}, {})
