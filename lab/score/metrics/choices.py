"""Accuracy of the most likely answer, as it is and per character."""

from collections.abc import Sequence
from dataclasses import replace

from lab.models.lazytorch import Generator
from lab.score.intervals import wilson
from lab.score.metric import ChoiceLikelihoods, Score, metrics

SOURCE = "EleutherAI lm-eval 0.4.13, output_type multiple_choice"


@metrics.register("accuracy", label="Accuracy", reads="choices", source=f"{SOURCE}, acc")
def accuracy(items: Sequence[ChoiceLikelihoods], generator: Generator | None) -> Score:  # noqa: ARG001
    """Share of questions whose right answer is the most likely one.

    Args:
        items: the answered questions, at least one.
        generator: not used; the interval is Wilson's.

    Raises:
        ValueError: there are no items.
    """
    return _share([item.pick == item.answer for item in items])


@metrics.register(
    "accuracy_normalised", label="Accuracy, normalised", reads="choices", source=f"{SOURCE}, acc_norm"
)
def accuracy_normalised(items: Sequence[ChoiceLikelihoods], generator: Generator | None) -> Score:  # noqa: ARG001
    """Share of questions whose right answer is the most likely one per character.

    Dividing by the characters takes away the advantage that a short answer has for being short.

    Args:
        items: the answered questions, at least one; no choice is empty.
        generator: not used; the interval is Wilson's.

    Raises:
        ValueError: there are no items.
    """
    return _share([replace(item, log_likelihoods=_per_character(item)).pick == item.answer for item in items])


def _per_character(item: ChoiceLikelihoods) -> tuple[float, ...]:
    pairs = zip(item.log_likelihoods, item.choices, strict=True)
    return tuple(value / len(choice) for value, choice in pairs)


def _share(right: Sequence[bool]) -> Score:
    if not right:
        raise ValueError("accuracy needs at least one item")
    n = len(right)
    low, high = wilson(sum(right), n)
    return Score(sum(right) / n, low, high, n, tuple(map(float, right)), (1.0,) * n)
