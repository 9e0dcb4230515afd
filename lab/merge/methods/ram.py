"""RAM: changes that one model made alone are kept whole, shared ones are averaged."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor, torch

Least = Annotated[
    float, Field(ge=0, description="A change counts where it is larger than this, in units of the weights")
]


@merge_methods.register(
    "ram",
    source="Reinforced Agent Merging, arXiv:2601.13572",
    weighted=False,
    elementwise=True,
    nanoseconds=4.0,
    use="When fine-tunes changed different numbers, as after reinforcement learning: an average fades them.",
)
def ram(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  the method has none
    *,
    epsilon: Least = 1e-5,
) -> Tensor:
    """Average, element by element, over the models that changed it: sum_i d_i A_i / max(1, sum_i A_i).

    A_i is whether |d_i| > epsilon. So a change that one model made alone is kept whole. `epsilon` is
    absolute, as in mergekit, whose knob it is: set it to what counts as no change in these models.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: not used.
        epsilon: the largest change that doesn't count, in units of the weights.

    Returns:
        The merged delta. Shape (*weight).
    """
    total, count = _active(deltas, epsilon)
    return total.div_(count.clamp_min_(1.0))


@merge_methods.register(
    "ramplus_tl",
    source="Reinforced Agent Merging, arXiv:2601.13572; RAM+ by tensor as in mergekit 0.1",
    weighted=False,
    nanoseconds=7.0,
    use="When RAM fades what models share: their lone changes are made a little larger in return.",
)
def ramplus_tl(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  the method has none
    *,
    r: Annotated[
        float, Field(ge=0, description="How much sharing enlarges what a model changed alone")
    ] = 0.1,
    alpha: Annotated[float, Field(ge=0, description="The most sharing that counts")] = 0.2,
    epsilon: Least = 1e-5,
) -> Tensor:
    """Merge as `ram` does, with each model's lone changes times 1 + r clamp(rho_i, 0, alpha).

    rho_i = shared / max(lone, epsilon) counts the elements that model i changed together with others, and
    alone, in this tensor; the paper counts over the whole model.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: not used.
        r: how much sharing enlarges.
        alpha: the most sharing that counts.
        epsilon: the largest change that doesn't count, in units of the weights.

    Returns:
        The merged delta. Shape (*weight).
    """
    rows = deltas.flatten(1)
    lone, shared = _counts(rows, epsilon)
    return _merge(rows.clone(), _factors(lone, shared, r, alpha, epsilon), epsilon).view(deltas.shape[1:])


@merge_methods.streamed("ramplus_tl")
def ramplus_tl_streamed(
    stack: Stack,
    weights: Tensor,
    *,
    r: float,
    alpha: float,
    epsilon: float,
) -> Iterator[Tensor]:
    """Merge in two passes: count, then sum."""
    lone, shared = [0] * len(weights), [0] * len(weights)
    for chunk in stack.chunks():
        more_lone, more_shared = _counts(chunk, epsilon)
        lone = [a + b for a, b in zip(lone, more_lone, strict=True)]
        shared = [a + b for a, b in zip(shared, more_shared, strict=True)]
    factors = _factors(lone, shared, r, alpha, epsilon)
    for chunk in stack.chunks():
        yield _merge(chunk, factors, epsilon)


def _active(rows: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the sum of the changes that count, and how many models have one. Shapes (*weight)."""
    total, count = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
    for row in rows:
        counts = row.abs() > epsilon
        total.add_(row * counts)
        count.add_(counts)
    return total, count


def _counts(rows: Tensor, epsilon: float) -> tuple[list[int], list[int]]:
    """Return, for each model, how many elements it changed alone, and with others."""
    active = rows.abs() > epsilon
    count = active.sum(0)
    lone = [int((row & (count == 1)).sum()) for row in active]
    return lone, [int(row.sum()) - alone for row, alone in zip(active, lone, strict=True)]


def _factors(
    lone: Sequence[int], shared: Sequence[int], r: float, alpha: float, epsilon: float
) -> list[float]:
    rho = [
        each / max(alone, epsilon) if alone or epsilon else float("inf")
        for alone, each in zip(lone, shared, strict=True)
    ]
    return [1 + r * min(max(share, 0.0), alpha) for share in rho]


def _merge(rows: Tensor, factors: Sequence[float], epsilon: float) -> Tensor:
    """Sum lone changes times their factors and the average of shared ones. Overwrites the rows."""
    _, count = _active(rows, epsilon)
    is_lone, share = count == 1, count.clamp_min(1.0).reciprocal_()
    total = torch.zeros_like(share)
    for row, factor in zip(rows, factors, strict=True):
        row.mul_(row.abs() > epsilon)
        total.add_(row.mul_(torch.where(is_lone, factor, share)))
    return total
