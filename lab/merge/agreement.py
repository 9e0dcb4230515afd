"""What several models agree on, element by element. Pure: tensors and numbers only."""

from collections.abc import Sequence

import numpy as np

from lab.models.lazytorch import Tensor, torch


def weighted_sum(rows: Tensor, weights: Sequence[float]) -> Tensor:
    """Return sum_i weights[i] * rows[i], in float32.

    Args:
        rows: shape (models, *any).
        weights: one for each row.

    Raises:
        ValueError: the numbers of rows and of weights differ.
    """
    if len(rows) != len(weights):
        raise ValueError(f"{len(rows)} models but {len(weights)} weights")
    return (torch.tensor(weights) @ rows.flatten(1)).view(rows.shape[1:])


def divisor(weights: Sequence[float]) -> float:
    """Return the sum of the weights, to divide by.

    Raises:
        ValueError: it is zero, or so near that only rounding is left.
    """
    total = sum(weights)
    if abs(total) <= 1e-6 * sum(abs(weight) for weight in weights):
        raise ValueError(
            f"The weights {', '.join(f'{weight:g}' for weight in weights)} sum to zero, and normalize "
            "divides by their sum. Turn normalize off, or change a weight."
        )
    return total


def agreeing(votes: Tensor, weights: Sequence[float], normalize: bool) -> Tensor:
    """Sum, element by element, only the votes that have the majority's sign.

    The majority's sign is that of sum_i v_i, zero counting as plus. With `normalize` the sum is
    divided by the weights of those that agree; where nobody does, the result is zero.

    Args:
        votes: the weighted deltas v_i = w_i d_i, overwritten. Shape (models, elements), float32.
        weights: the w_i.
        normalize: whether to divide by the sum of the agreeing weights.

    Returns:
        Shape (elements,).
    """
    majority = majority_of(votes)
    votes.mul_(majority).clamp_min_(0.0)  # what agrees is positive now, the rest zero
    total = row_sum(votes).mul_(majority)
    if normalize:
        total.div_(_shares(votes, weights))
    return total


def agreeing_average(deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """Average, element by element, only the deltas that have the majority's sign, unweighted in the vote.

    Where nobody agrees, the result is zero.

    Args:
        deltas: overwritten. Shape (models, elements), float32.
        weights: each model's share in the average, not negative.

    Returns:
        Shape (elements,).
    """
    majority = majority_of(deltas)
    deltas.mul_(majority).clamp_min_(0.0)
    total = weighted_sum(deltas, weights).mul_(majority)
    return total.div_(_shares(deltas, weights))


def majority_of(votes: Tensor) -> Tensor:
    """Return the sign of the sum over the models, zero counting as plus. Shape (elements,)."""
    total = row_sum(votes)
    return torch.copysign(torch.ones_like(total), total.add_(0.0), out=total)  # -0 + 0 is 0, which is plus


def row_sum(rows: Tensor) -> Tensor:
    """Return the sum over the rows, one row after the other."""
    total = rows[0].clone()
    for row in rows[1:]:
        total.add_(row)
    return total


def _shares(agreed: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum the weights of those that agree; one where nobody does. `agreed` is overwritten."""
    share = weighted_sum(agreed.sign_(), weights)
    values = share.numpy()
    np.add(values, values == 0, out=values)  # torch compares ten times as slowly
    return share
