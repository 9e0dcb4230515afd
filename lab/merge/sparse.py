"""What the task-arithmetic family shares: sparse deltas, given their size back, elected, and summed.

Each method of the family says only which changes it keeps. Pure: tensors and numbers only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lab.merge.agreement import agreeing, divisor, weighted_sum
from lab.merge.registry import PerModel, Stack
from lab.models.lazytorch import Tensor

Density = Annotated[
    PerModel, Field(ge=0, le=1, description="Share of each model's changes to keep, the largest first")
]
Lambda = Annotated[float, Field(description="Multiplies the merged delta before it is added to the base")]
NormalizeAll = Annotated[bool, Field(description="Divide by the sum of the weights")]
NormalizeAgreeing = Annotated[bool, Field(description="Divide by the weights of the models that agree")]
Rescale = Annotated[bool, Field(description="Give each trimmed delta back its sum of magnitudes")]
RescaleBy = Literal["norm", "probability"]

Trim = Callable[[int, int, Tensor], Tensor]
"""Sets what a model drops to zero, in place: `trim(model, start, row)`, the chunks of a pass in order."""


@dataclass(frozen=True)
class Mix:
    """How sparse deltas become one.

    Attributes:
        elect: whether only what has the sign of sum_i w_i d_i counts, as in TIES.
        normalize: whether to divide by the weights: with `elect` of those that agree, element by element.
        rescale: whether each delta is multiplied by L1(before) / L1(after), for the whole tensor.
        lambda_: factor of the merged delta.
    """

    elect: bool
    normalize: bool
    rescale: bool
    lambda_: float

    def says(self, weights: Tensor) -> list[float]:
        """Return the weights as numbers.

        Raises:
            ValueError: they are to be divided by, and sum to zero.
        """
        says: list[float] = weights.tolist()
        if self.normalize:
            divisor(says)
        return says

    def __call__(self, rows: Tensor, factors: Sequence[float], says: Sequence[float]) -> Tensor:
        """Merge sparse deltas. Shape (models, elements), overwritten -> (elements,).

        Args:
            rows: the deltas.
            factors: what each is multiplied by: its weight, times what rescaling adds.
            says: the weights, to divide by.
        """
        if not self.elect:
            factor = self.lambda_ / divisor(says) if self.normalize else self.lambda_
            return weighted_sum(rows, [each * factor for each in factors])
        for row, each in zip(rows, factors, strict=True):
            if each != 1.0:
                row.mul_(each)
        merged = agreeing(rows, says, self.normalize)
        return merged if self.lambda_ == 1.0 else merged.mul_(self.lambda_)


def mix_whole(deltas: Tensor, kept: Tensor, weights: Tensor, mix: Mix) -> Tensor:
    """Merge whole tensors of which only a part is kept.

    Args:
        deltas: the changes before. Shape (models, *weight).
        kept: what is kept of them, the rest zero; overwritten. The same shape.
        weights: each model's say. Shape (models,).
        mix: how.

    Returns:
        Shape (*weight).
    """
    says = factors = mix.says(weights)
    rows = kept.flatten(1)
    if mix.rescale:
        before, after = deltas.flatten(1).abs().sum(1), rows.abs().sum(1)
        factors = rescaled(says, before.tolist(), after.tolist())
    return mix(rows, factors, says).view(deltas.shape[1:])


def mix_stream(
    stack: Stack, weights: Tensor, mix: Mix, new_trim: Callable[[], Trim], multiple: int = 1
) -> Iterator[Tensor]:
    """Merge in one pass, or with rescaling in two.

    Args:
        stack: the deltas.
        weights: each model's say.
        mix: how.
        new_trim: starts a pass of dropping; every pass has to drop the same.
        multiple: the elements of a chunk are a multiple of this.
    """
    says = factors = mix.says(weights)
    if mix.rescale:
        factors = rescaled(says, *_sums(stack, new_trim(), multiple))
    trim, start = new_trim(), 0
    for rows in stack.chunks(multiple):
        for model, row in enumerate(rows):
            trim(model, start, row)
        start += rows.shape[1]
        yield mix(rows, factors, says)


def drop(row: Tensor, kept: np.ndarray) -> Tensor:
    """Set what is not kept to zero, in place; return the row. numpy does it four times as fast as torch."""
    values = row.numpy()
    np.multiply(values, kept, out=values)
    return row


def rescaled(says: Sequence[float], before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Return the weights times L1(before) / L1(after); a delta of which nothing is left stays."""
    return [say * (b / a) if a else say for say, b, a in zip(says, before, after, strict=True)]


def kept_counts(density: Sequence[float], total: int) -> list[int]:
    """Return how many of `total` elements each density keeps: at least one, unless it is zero."""
    return [min(total, max(1, int(share * total))) if share > 0 else 0 for share in density]


def _sums(stack: Stack, trim: Trim, multiple: int) -> tuple[list[float], list[float]]:
    """Return each row's sum of magnitudes, before and after what is dropped."""
    before, after, start = [0.0] * stack.models, [0.0] * stack.models, 0
    for rows in stack.chunks(multiple):
        for model, row in enumerate(rows):
            before[model] += _magnitude(row)
            after[model] += _magnitude(trim(model, start, row))
        start += rows.shape[1]
    return before, after


def _magnitude(row: Tensor) -> float:
    return row.abs().sum().item()  # torch's own 1-norm takes six times as long
