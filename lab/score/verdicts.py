"""Every model against the first, on every metric: what changed, and whether it is more than noise. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lab.models.lazytorch import Generator
from lab.score.metric import Metric, Score
from lab.score.significance import (
    difference_sentence,
    flips,
    flips_sentence,
    mcnemar_p,
    paired_difference,
)


def verdict(
    new: str, base: str, metric: Metric, scores: Mapping[str, Score], generator: Generator
) -> dict[str, Any]:
    """Compare two models on one metric; where one read less, on the items that both read.

    Args:
        new: the new model's name, a key of `scores`.
        base: the name of the one it is held against, another key.
        metric: what was measured.
        scores: each model's score, with its parts.
        generator: for the resampling.

    Returns:
        JSON values: model, base, metric, sentence, p, n; for choices fixed and broken, for texts the
        difference with its interval.
    """
    n = min(scores[new].n, scores[base].n)
    before, after = scores[base].parts[:n], scores[new].parts[:n]
    names = {"model": new, "base": base, "metric": metric.name}
    if metric.reads == "choices":
        seen = flips(before, after)
        p = mcnemar_p(seen.fixed, seen.broken)
        return {**names, **asdict(seen), "p": p, "sentence": flips_sentence(new, base, seen)}
    gap = paired_difference(before, after, scores[base].sizes[:n], generator)
    return {**names, **asdict(gap), "sentence": difference_sentence(new, base, metric.label.lower(), gap)}


def right_and_wrong(score: Score) -> str:
    """Spell a score over questions as one digit an item: "1" for right, "0" for wrong."""
    return "".join("1" if part else "0" for part in score.parts)


def favourite_place(picks: Sequence[int]) -> float:
    """Return the share of questions on which the most-picked place (first, second, ...) was picked."""
    return max(picks.count(place) for place in set(picks)) / len(picks)
