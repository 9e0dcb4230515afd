"""Accuracy of the most likely answer, as it is and per character."""

from collections.abc import Callable, Sequence

import torch

from lab.score.intervals import wilson
from lab.score.metric import ChoiceLikelihoods, Score, metrics

SOURCE = "EleutherAI lm-eval 0.4.13, output_type multiple_choice"


@metrics.register("accuracy", label="Accuracy", reads="choices", source=f"{SOURCE}, acc")
def accuracy(items: Sequence[ChoiceLikelihoods], generator: torch.Generator) -> Score:  # noqa: ARG001
    """Share of questions whose right answer is the most likely one.

    Args:
        items: the answered questions, at least one.
        generator: not used; the interval is Wilson's.

    Raises:
        ValueError: there are no items.
    """
    return _share(items, lambda item: item.log_likelihoods)


@metrics.register(
    "accuracy_normalised", label="Accuracy, normalised", reads="choices", source=f"{SOURCE}, acc_norm"
)
def accuracy_normalised(items: Sequence[ChoiceLikelihoods], generator: torch.Generator) -> Score:  # noqa: ARG001
    """Share of questions whose right answer is the most likely one per character.

    Dividing by the characters takes away the advantage that a short answer has for being short.

    Args:
        items: the answered questions, at least one; no choice is empty.
        generator: not used; the interval is Wilson's.

    Raises:
        ValueError: there are no items.
    """
    return _share(
        items,
        lambda item: tuple(
            value / len(choice) for value, choice in zip(item.log_likelihoods, item.choices, strict=True)
        ),
    )


def _share(
    items: Sequence[ChoiceLikelihoods], rate: Callable[[ChoiceLikelihoods], tuple[float, ...]]
) -> Score:
    if not items:
        raise ValueError("accuracy needs at least one item")
    parts = []
    for item in items:
        rates = rate(item)
        parts.append(float(rates.index(max(rates)) == item.answer))  # a draw goes to the first, as in lm-eval
    low, high = wilson(round(sum(parts)), len(parts))
    return Score(sum(parts) / len(parts), low, high, len(parts), tuple(parts), (1.0,) * len(parts))
