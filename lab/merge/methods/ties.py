"""TIES: trim each delta, elect a sign, merge what agrees with it."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from lab.merge.agreement import agreeing, divisor
from lab.merge.registry import PerModel, Stack, for_each, merge_methods
from lab.merge.selection import Cut, keep_largest, largest_cuts
from lab.models.lazytorch import Tensor, torch

Density = Annotated[
    PerModel, Field(ge=0, le=1, description="Share of each model's changes to keep, the largest first")
]
Lambda = Annotated[float, Field(description="Multiplies the merged delta before it is added to the base")]


@merge_methods.register(
    "ties",
    source="TIES-Merging, arXiv:2306.01708, section 3",
    nanoseconds=6.0,
    use="When fine-tunes pull in different directions: small changes are dropped, then the majority wins.",
)
def ties(
    deltas: Tensor,
    weights: Tensor,
    *,
    density: Density = 1.0,
    normalize: Annotated[bool, Field(description="Divide by the weights of the models that agree")] = True,
    rescale: Annotated[bool, Field(description="Give each trimmed delta back its sum of magnitudes")] = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Trim to the largest magnitudes, elect the sign of sum_i w_i d_i, sum what has that sign.

    Each delta keeps its max(1, floor(density * elements)) largest magnitudes, exactly that many: of
    equal ones the first. Trimming is by tensor, and signs are elected on weighted deltas, as in
    mergekit; the paper trims over the whole model and elects on unweighted ones. Departs from mergekit
    where the weights sum to zero with `normalize`: that is an error. `rescale` has no absolute floor.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        density: share of each delta to keep, in [0, 1].
        normalize: whether to divide by the weights of the models that agree, element by element.
        rescale: whether to multiply a trimmed delta by L1(before) / L1(after).
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    says = _says(weights, normalize)
    kept = kept_counts(for_each(density, len(deltas)), deltas[0].numel())
    votes = torch.stack([keep_largest(delta, count) for delta, count in zip(deltas, kept, strict=True)])
    if rescale:
        before, after = deltas.flatten(1).abs().sum(1), votes.flatten(1).abs().sum(1)
        says = _rescaled(says, before.tolist(), after.tolist())
        return _merge(votes.flatten(1), says, _says(weights, normalize), normalize, lambda_).view(
            deltas.shape[1:]
        )
    return _merge(votes.flatten(1), says, says, normalize, lambda_).view(deltas.shape[1:])


@merge_methods.streamed("ties")
def ties_streamed(
    stack: Stack,
    weights: Tensor,
    *,
    density: float | Sequence[float],
    normalize: bool,
    rescale: bool,
    lambda_: float,
) -> Iterator[Tensor]:
    """Merge in three passes: two to find each model's cut, one to trim, elect and sum."""
    says = factors = _says(weights, normalize)
    total = torch.Size(stack.shape).numel()
    kept = kept_counts(for_each(density, len(weights)), total)
    cuts = largest_cuts(lambda: (chunk.abs_() for chunk in stack.chunks()), kept, total)
    if rescale:
        factors = _rescaled(says, *_sums(stack, cuts))
    for votes in stack.chunks():
        for row, cut in zip(votes, cuts, strict=True):
            cut.trim(row)
        yield _merge(votes, factors, says, normalize, lambda_)


def kept_counts(density: Sequence[float], total: int) -> list[int]:
    """Return how many of `total` elements each density keeps: at least one, unless it is zero."""
    return [min(total, max(1, int(share * total))) if share > 0 else 0 for share in density]


def _says(weights: Tensor, normalize: bool) -> list[float]:
    says: list[float] = weights.tolist()
    if normalize:
        divisor(says)  # refuses weights that cancel out
    return says


def _merge(votes: Tensor, factors: list[float], says: list[float], normalize: bool, lambda_: float) -> Tensor:
    for vote, factor in zip(votes, factors, strict=True):
        if factor != 1.0:
            vote.mul_(factor)
    merged = agreeing(votes, says, normalize)
    return merged if lambda_ == 1.0 else merged.mul_(lambda_)


def _rescaled(says: list[float], before: list[float], after: list[float]) -> list[float]:
    return [say * (b / a) if a else say for say, b, a in zip(says, before, after, strict=True)]


def _sums(stack: Stack, cuts: Sequence[Cut]) -> tuple[list[float], list[float]]:
    """Return each row's sum of magnitudes, before and after the cut."""
    fresh = [cut.copy() for cut in cuts]
    before, after = [0.0] * len(cuts), [0.0] * len(cuts)
    for chunk in stack.chunks():
        for place, (row, cut) in enumerate(zip(chunk, fresh, strict=True)):
            before[place] += row.abs().sum().item()
            after[place] += cut.trim(row).abs().sum().item()
    return before, after
