"""DARE: drop changes at random and scale up what is left, then merge as TIES does or by a plain sum."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from lab.merge.draws import Draws
from lab.merge.registry import PerModel, Stack, Streamed, for_each, merge_methods
from lab.merge.sparse import (
    Lambda,
    Mix,
    NormalizeAgreeing,
    NormalizeAll,
    Rescale,
    RescaleBy,
    Trim,
    drop,
    mix_stream,
    mix_whole,
)
from lab.models.lazytorch import Tensor, torch

Kept = Annotated[PerModel, Field(ge=0, le=1, description="Share of each model's changes to keep, at random")]
By = Annotated[
    RescaleBy,
    Field(description="How rescaling does it: to the same sum of magnitudes, or by 1 / density as the paper"),
]


@merge_methods.register(
    "dare_ties",
    source="DARE, arXiv:2311.03099, section 3; then TIES",
    nanoseconds=5.0,
    use="When many light fine-tunes meet: most small changes can go at random, then the majority wins.",
)
def dare_ties(
    deltas: Tensor,
    weights: Tensor,
    *,
    draws: Draws,
    density: Kept = 1.0,
    normalize: NormalizeAgreeing = False,
    rescale: Rescale = True,
    rescale_by: By = "norm",
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep each change with probability `density`, rescale, elect the sign of sum_i w_i d_i, sum what has it.

    With `rescale`, "norm" multiplies what is left by L1(before) / L1(after), as mergekit does, and
    "probability" by 1 / density, which is the paper's 1 / (1 - p). Departs from mergekit: the seed
    repeats exactly, "norm" has no absolute floor of 1e-7, and weights that sum to zero are an error
    with `normalize`.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        draws: the tensor's random numbers.
        density: probability of each change to be kept, in [0, 1].
        normalize: whether to divide by the weights of the models that agree, element by element.
        rescale: whether to scale up what is left.
        rescale_by: "norm" or "probability".
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    shares = for_each(density, len(deltas))
    mix = Mix(True, normalize, rescale and rescale_by == "norm", lambda_)
    return mix_whole(deltas, _kept(deltas, draws, shares, _by(shares, rescale, rescale_by)), weights, mix)


@merge_methods.register(
    "dare_linear",
    source="DARE, arXiv:2311.03099, section 3",
    nanoseconds=4.0,
    use="When you add up light fine-tunes and want them to overlap less: most small changes go at random.",
)
def dare_linear(
    deltas: Tensor,
    weights: Tensor,
    *,
    draws: Draws,
    density: Kept = 1.0,
    normalize: NormalizeAll = False,
    rescale: Rescale = True,
    rescale_by: By = "norm",
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep each change with probability `density`, rescale, and sum: lambda * sum_i w_i d_i.

    Rescaling and departures are those of `dare_ties`.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        draws: the tensor's random numbers.
        density: probability of each change to be kept, in [0, 1].
        normalize: whether to divide by the sum of the weights.
        rescale: whether to scale up what is left.
        rescale_by: "norm" or "probability".
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    shares = for_each(density, len(deltas))
    mix = Mix(False, normalize, rescale and rescale_by == "norm", lambda_)
    return mix_whole(deltas, _kept(deltas, draws, shares, _by(shares, rescale, rescale_by)), weights, mix)


def _kept(deltas: Tensor, draws: Draws, shares: Sequence[float], factors: Sequence[float]) -> Tensor:
    rows = deltas.flatten(1)
    kept = [
        row * draws.keep(model, share, 0, len(row)) * factor
        for model, (row, share, factor) in enumerate(zip(rows, shares, factors, strict=True))
    ]
    return torch.stack(kept)


def _by(shares: Sequence[float], rescale: bool, rescale_by: str) -> list[float]:
    """Return what each model's kept changes are multiplied by at once."""
    at_once = rescale and rescale_by == "probability"
    return [1 / share if at_once and share else 1.0 for share in shares]


def _streamed(*, elect: bool) -> Streamed:
    """Make the form in chunks: one pass, or two where sums of magnitudes are needed."""

    def streamed(
        stack: Stack,
        weights: Tensor,
        *,
        draws: Draws,
        density: float | Sequence[float],
        normalize: bool,
        rescale: bool,
        rescale_by: RescaleBy,
        lambda_: float,
    ) -> Iterator[Tensor]:
        shares = for_each(density, len(weights))
        factors = _by(shares, rescale, rescale_by)

        def trim(model: int, start: int, row: Tensor) -> Tensor:
            if shares[model] < 1:
                drop(row, draws.keep(model, shares[model], start, len(row)).numpy())
            return row if factors[model] == 1.0 else row.mul_(factors[model])

        def new_trim() -> Trim:
            return trim

        by_norm = rescale and rescale_by == "norm" and min(shares) < 1
        return mix_stream(stack, weights, Mix(elect, normalize, by_norm, lambda_), new_trim)

    return streamed


merge_methods.streamed("dare_ties")(_streamed(elect=True))
merge_methods.streamed("dare_linear")(_streamed(elect=False))
