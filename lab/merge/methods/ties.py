"""TIES: trim each delta, elect a sign, merge what agrees with it."""

from collections.abc import Iterator, Sequence

from lab.merge.registry import Stack, for_each, merge_methods
from lab.merge.selection import Cut, keep_largest, largest_cuts, sample_size
from lab.merge.sparse import (
    Density,
    Lambda,
    Mix,
    NormalizeAgreeing,
    Rescale,
    Trim,
    kept_counts,
    mix_stream,
    mix_whole,
)
from lab.models.lazytorch import Tensor, torch


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
    normalize: NormalizeAgreeing = True,
    rescale: Rescale = False,
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
    counts = kept_counts(for_each(density, len(deltas)), deltas[0].numel())
    kept = torch.stack([keep_largest(delta, count) for delta, count in zip(deltas, counts, strict=True)])
    return mix_whole(deltas, kept, weights, Mix(True, normalize, rescale, lambda_))


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
    """Merge in two passes, four at worst: find each model's cut, then trim, elect and sum."""
    total = torch.Size(stack.shape).numel()
    counts = kept_counts(for_each(density, len(weights)), total)

    def find() -> list[Cut]:
        sample = stack.sample(sample_size(total)).abs_()
        return largest_cuts(lambda: (chunk.abs_() for chunk in stack.chunks()), counts, total, sample)

    cuts = stack.recall(("ties", *counts), find)

    def new_trim() -> Trim:
        fresh = [cut.copy() for cut in cuts]
        return lambda model, _, row: fresh[model].trim(row)

    return mix_stream(stack, weights, Mix(True, normalize, rescale, lambda_), new_trim)
