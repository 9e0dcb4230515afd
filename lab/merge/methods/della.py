"""DELLA: drop changes at random, the smaller the likelier, then merge as TIES does or by a plain sum."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.merge.draws import Draws
from lab.merge.registry import PerModel, Stack, Streamed, for_each, merge_methods
from lab.merge.sparse import (
    Lambda,
    Mix,
    NormalizeAgreeing,
    NormalizeAll,
    Rescale,
    Trim,
    drop,
    mix_stream,
    mix_whole,
)
from lab.models.lazytorch import Tensor, torch

Kept = Annotated[
    PerModel, Field(ge=0, le=1, description="Share of each model's changes to keep, larger ones likelier")
]
Epsilon = Annotated[
    PerModel,
    Field(ge=0, lt=0.5, description="How far the probability goes from the density, down and up by rank"),
]

MOST_MASK_BITS = 1 << 30
"""Decisions that are kept between two passes, 128 MiB; of larger tensors they are made anew."""


@merge_methods.register(
    "della",
    source="DELLA-Merging, arXiv:2406.11617, section 3",
    nanoseconds=16.0,
    use="When DARE drops too much that matters: large changes are kept likelier, then the majority wins.",
)
def della(
    deltas: Tensor,
    weights: Tensor,
    *,
    draws: Draws,
    density: Kept = 1.0,
    epsilon: Epsilon = 0.15,
    normalize: NormalizeAgreeing = True,
    rescale: Rescale = True,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep each change with a probability that grows with its rank, rescale, elect, and sum what agrees.

    In each row of the weight (along its last dimension; of a vector, in all of it) magnitudes are
    ranked 1 to C, and rank k is kept with probability density - epsilon + 2 epsilon (k - 1) / (C - 1),
    to 16 bits. Equal magnitudes share the highest of their ranks; a row of one element has the density
    itself, where mergekit divides zero by zero. `rescale` multiplies by L1(before) / L1(after), as
    mergekit does and without its absolute floor; the paper divides each by its own probability.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        draws: the tensor's random numbers.
        density: mean probability of a change to be kept, in [0, 1]; 1 keeps all.
        epsilon: half the range of the probabilities.
        normalize: whether to divide by the weights of the models that agree, element by element.
        rescale: whether to scale up what is left.
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: density - epsilon or density + epsilon is not between 0 and 1, or the weights sum
            to zero with `normalize`.
    """
    return mix_whole(
        deltas, _kept(deltas, draws, density, epsilon), weights, Mix(True, normalize, rescale, lambda_)
    )


@merge_methods.register(
    "della_linear",
    source="DELLA-Merging, arXiv:2406.11617, section 3",
    nanoseconds=14.0,
    use="When you add up fine-tunes and want them to overlap less, and large changes to survive likelier.",
)
def della_linear(
    deltas: Tensor,
    weights: Tensor,
    *,
    draws: Draws,
    density: Kept = 1.0,
    epsilon: Epsilon = 0.15,
    normalize: NormalizeAll = False,
    rescale: Rescale = True,
    lambda_: Lambda = 1.0,
) -> Tensor:
    """Keep what `della` keeps, rescale, and sum: lambda * sum_i w_i d_i.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        draws: the tensor's random numbers.
        density: mean probability of a change to be kept, in [0, 1]; 1 keeps all.
        epsilon: half the range of the probabilities.
        normalize: whether to divide by the sum of the weights.
        rescale: whether to scale up what is left.
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: density - epsilon or density + epsilon is not between 0 and 1, or the weights sum
            to zero with `normalize`.
    """
    return mix_whole(
        deltas, _kept(deltas, draws, density, epsilon), weights, Mix(False, normalize, rescale, lambda_)
    )


def probabilities(density: float, epsilon: float, columns: int) -> np.ndarray:
    """Return the probability of each rank, the smallest first, in 65,536ths. Shape (columns,), uint16.

    Raises:
        ValueError: they are not all between 0 and 1.
    """
    if density + epsilon >= 1 or density - epsilon <= 0:
        raise ValueError(
            f"density {density:g} with epsilon {epsilon:g} gives probabilities from {density - epsilon:g} to "
            f"{density + epsilon:g}. They have to lie between 0 and 1: change one of the two."
        )
    place = np.arange(columns) / (columns - 1) if columns > 1 else np.full(1, 0.5)
    return np.round((density - epsilon + 2 * epsilon * place) * 65536).clip(0, 65535).astype(np.uint16)


def _kept(
    deltas: Tensor, draws: Draws, density: float | Sequence[float], epsilon: float | Sequence[float]
) -> Tensor:
    """Rank by sorting, look up the probabilities, draw."""
    columns, models = deltas.shape[-1], len(deltas)
    kept = deltas.flatten(1).clone()
    for model, (share, spread) in enumerate(
        zip(for_each(density, models), for_each(epsilon, models), strict=True)
    ):
        if share >= 1:
            continue
        if share <= 0:
            kept[model] = 0.0
            continue
        chances = probabilities(share, spread, columns)
        magnitudes = deltas[model].reshape(-1, columns).abs()
        ranks = torch.searchsorted(magnitudes.sort(1).values, magnitudes, right=True)  # 1 to columns
        each = chances[ranks.flatten().numpy() - 1]
        kept[model] *= torch.from_numpy(draws.keep_each(model, each, 0))
    return kept


def _streamed(*, elect: bool) -> Streamed:
    """Make the form in chunks of whole rows: one pass, or two that share their decisions."""

    def streamed(
        stack: Stack,
        weights: Tensor,
        *,
        draws: Draws,
        density: float | Sequence[float],
        epsilon: float | Sequence[float],
        normalize: bool,
        rescale: bool,
        lambda_: float,
    ) -> Iterator[Tensor]:
        columns = stack.shape[-1] if stack.shape else 1
        spreads = for_each(epsilon, len(weights))
        droppers = [
            _Dropper(model, share, spread, columns, draws)
            for model, (share, spread) in enumerate(
                zip(for_each(density, len(weights)), spreads, strict=True)
            )
        ]
        keeps = rescale and torch.Size(stack.shape).numel() * len(weights) <= MOST_MASK_BITS
        masks: dict[tuple[int, int], np.ndarray] = {}

        def trim(model: int, start: int, row: Tensor) -> Tensor:
            if not droppers[model].is_drawn:
                return droppers[model].trim(row)
            known = masks.pop((model, start), None)
            mask = (
                droppers[model].mask(start, row)
                if known is None
                else np.unpackbits(known, count=len(row)).view(bool)
            )
            if keeps and known is None:
                masks[model, start] = np.packbits(mask)
            return drop(row, mask)

        def new_trim() -> Trim:
            return trim

        return mix_stream(stack, weights, Mix(elect, normalize, rescale, lambda_), new_trim, columns)

    return streamed


class _Dropper:
    """Decides for one model and tensor, some whole rows at a time, without ranking every element.

    A draw below the lowest probability keeps its element, one above the highest drops it, whatever its
    rank. For the others: an element with draw u is kept where its rank's probability is above u, which is
    where its magnitude is at least that of the first rank with such a probability. So the sorted
    magnitudes of the rows are enough.
    """

    def __init__(self, model: int, share: float, spread: float, columns: int, draws: Draws) -> None:
        self._model, self._share, self._columns, self._draws = model, share, columns, draws
        self.is_drawn = 0 < share < 1
        if self.is_drawn:
            chances = probabilities(share, spread, columns)
            self._low, self._range = chances[0], chances[-1] - chances[0]
            counts = np.bincount(chances - self._low, minlength=1)
            self._first = np.cumsum(counts)  # of each draw, from the lowest: the first rank, from 0, above it

    def trim(self, row: Tensor) -> Tensor:
        """Keep all or none, in place."""
        return row if self._share >= 1 else row.zero_()

    def mask(self, start: int, row: Tensor) -> np.ndarray:
        """Return which elements are kept. Shape (elements,), bool."""
        drawn, values = self._draws.integers(self._model, start, len(row)), row.numpy()
        ordered = np.abs(values).reshape(-1, self._columns)
        ordered.sort(axis=1)
        kept = drawn < self._low
        over = drawn - self._low  # wraps round for draws below
        places = np.flatnonzero(over < self._range)
        first = self._first.take(over[places]) + places // self._columns * self._columns
        kept[places] = np.abs(values[places]) >= ordered.ravel().take(first)
        return kept


merge_methods.streamed("della")(_streamed(elect=True))
merge_methods.streamed("della_linear")(_streamed(elect=False))
