"""What several models agree on, element by element. Pure: tensors and numbers only."""

from collections.abc import Sequence

import numpy as np

from lab.models.lazytorch import Tensor, torch

_SIGN, _ONE = -(1 << 31), 0x3F800000  # the sign bit, and the bits of 1.0, of a float32
_LEAST = float(np.finfo(np.float32).tiny)


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
    """Return the sign of the sum over the models, 1 or -1, zero counting as plus. Shape (elements,)."""
    total = row_sum(votes).add_(0.0)  # -0 + 0 is 0, which is plus
    total.view(torch.int32).bitwise_and_(_SIGN).bitwise_or_(_ONE)  # copysign takes twice as long
    return total


def row_sum(rows: Tensor) -> Tensor:
    """Return the sum over the rows, one row after the other."""
    if len(rows) == 1:
        return rows[0].clone()
    total = rows[0] + rows[1]
    for row in rows[2:]:
        total.add_(row)
    return total


def _shares(agreed: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum the weights of those that agree; not zero where nobody does. `agreed` is overwritten."""
    share = weighted_sum(agreed.gt_(0.0), weights)
    if min(weights) >= 0:
        return share.clamp_min_(_LEAST)  # where nobody agrees the sum is zero, whatever it is divided by
    values = share.numpy()
    np.add(values, values == 0, out=values)  # torch compares ten times as slowly
    return share
