"""Model breadcrumbs: drop the smallest changes and the very largest, then sum or elect."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from lab.merge.registry import PerModel, Stack, Streamed, for_each, merge_methods
from lab.merge.selection import Cut, keep_largest, sample_size, several_cuts
from lab.merge.sparse import (
    Density,
    Lambda,
    Mix,
    NormalizeAgreeing,
    NormalizeAll,
    Rescale,
    Trim,
    mix_stream,
    mix_whole,
)
from lab.models.lazytorch import Tensor, torch

Gamma = Annotated[
    PerModel, Field(ge=0, le=1, description="Share of each model's largest changes to drop as outliers")
]


@merge_methods.register(
    "breadcrumbs",
    source="Model Breadcrumbs, arXiv:2312.06795, section 3",
    nanoseconds=7.0,
    use="When you add up many fine-tunes: neither noise nor a few extreme changes should decide.",
)
def breadcrumbs(
    deltas: Tensor,
    weights: Tensor,
    *,
    density: Density = 1.0,
    gamma: Gamma = 0.01,
    normalize: NormalizeAll = False,
    rescale: Rescale = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep, by magnitude, the floor(density * elements) below the floor(gamma * elements) largest, and sum.

    Where density and gamma together pass 1, fewer outliers are dropped, so that as many are kept as the
    density says; with a density of 1 nothing is dropped. Exactly that many are kept: equal magnitudes
    count as larger the earlier they come. Departs from mergekit where the weights sum to zero with
    `normalize`: that is an error. `rescale` has no absolute floor.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        density: share of each delta to keep, in [0, 1].
        gamma: share of each delta to drop at the top, in [0, 1].
        normalize: whether to divide by the sum of the weights.
        rescale: whether to multiply a trimmed delta by L1(before) / L1(after).
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    return mix_whole(deltas, _kept(deltas, density, gamma), weights, Mix(False, normalize, rescale, lambda_))


@merge_methods.register(
    "breadcrumbs_ties",
    source="Model Breadcrumbs, arXiv:2312.06795, section 3; then TIES",
    nanoseconds=9.0,
    use="When fine-tunes disagree and some have extreme changes: both ends go, then the majority wins.",
)
def breadcrumbs_ties(
    deltas: Tensor,
    weights: Tensor,
    *,
    density: Density = 1.0,
    gamma: Gamma = 0.01,
    normalize: NormalizeAgreeing = False,
    rescale: Rescale = False,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep what `breadcrumbs` keeps, elect the sign of sum_i w_i d_i, and sum what has that sign.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        density: share of each delta to keep, in [0, 1].
        gamma: share of each delta to drop at the top, in [0, 1].
        normalize: whether to divide by the weights of the models that agree, element by element.
        rescale: whether to multiply a trimmed delta by L1(before) / L1(after).
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    return mix_whole(deltas, _kept(deltas, density, gamma), weights, Mix(True, normalize, rescale, lambda_))


def _kept(deltas: Tensor, density: float | Sequence[float], gamma: float | Sequence[float]) -> Tensor:
    kept = []
    for delta, (top, both) in zip(
        deltas, _bands(density, gamma, len(deltas), deltas[0].numel()), strict=True
    ):
        kept.append(keep_largest(delta, both) - keep_largest(delta, top))
    return torch.stack(kept)


def _bands(
    density: float | Sequence[float], gamma: float | Sequence[float], models: int, total: int
) -> list[tuple[int, int]]:
    """Return for each model how many of the largest are dropped, and up to which one the rest is kept."""
    bands = []
    for share, outliers in zip(for_each(density, models), for_each(gamma, models), strict=True):
        keep = total if share >= 1 else int(share * total)
        top = min(int(outliers * total), total - keep)
        bands.append((top, top + keep))
    return bands


def _streamed(*, elect: bool) -> Streamed:
    """Make the form in chunks: a pass to find both ends of the band, three at worst; one to trim and sum."""

    def streamed(
        stack: Stack,
        weights: Tensor,
        *,
        density: float | Sequence[float],
        gamma: float | Sequence[float],
        normalize: bool,
        rescale: bool,
        lambda_: float,
    ) -> Iterator[Tensor]:
        total = torch.Size(stack.shape).numel()
        bands = _bands(density, gamma, len(weights), total)

        def find() -> list[list[Cut]]:
            sample = stack.sample(sample_size(total)).abs_()
            return several_cuts(lambda: (chunk.abs_() for chunk in stack.chunks()), bands, total, sample)

        cuts = stack.recall(("breadcrumbs", *bands), find)

        def new_trim() -> Trim:
            fresh = [(top.copy(), both.copy()) for top, both in cuts]

            def trim(model: int, _: int, row: Tensor) -> Tensor:
                top, both = fresh[model]
                if bands[model][0] == 0:
                    return both.trim(row)
                outliers = top.trim(row.clone())
                return both.trim(row).sub_(outliers)

            return trim

        return mix_stream(stack, weights, Mix(elect, normalize, rescale, lambda_), new_trim)

    return streamed


merge_methods.streamed("breadcrumbs")(_streamed(elect=False))
merge_methods.streamed("breadcrumbs_ties")(_streamed(elect=True))
