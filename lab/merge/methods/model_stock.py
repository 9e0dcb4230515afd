"""Model Stock: how far to go from the base to the average, from the angle between fine-tunes."""

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.merge.agreement import row_sum, weighted_sum
from lab.merge.angles import cosine, gram, gram_streamed
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor, torch

_POLE = 1e-6


@merge_methods.register(
    "model_stock",
    source="Model Stock, arXiv:2403.19522, section 4",
    models=(2, 8),
    weighted=False,
    shows_faults=True,
    nanoseconds=2.5,
    use="When you have fine-tunes of one base on the same task: each tensor finds how far to trust them.",
)
def model_stock(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  all models have the same say
    *,
    filter_wise: Annotated[
        bool, Field(description="Take an angle for each row of a weight instead of one for the tensor")
    ] = False,
) -> Tensor:
    """Go from the base to the average by t = N c / (1 + (N-1) c), with c the mean cosine between deltas.

    The result is t times the mean delta. Where 1 + (N-1) c is below 1e-6 in size there is no estimate, and
    t is 0, as in mergekit. t is not clamped either: a negative mean cosine goes away from the average.
    Departs from mergekit in what counts as a zero delta: only zero itself, where its floor of 1e-6 under
    the product of lengths takes small tensors for nearly unrelated. With `filter_wise` rows are along the
    last dimension; a vector is one row.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: not used.
        filter_wise: whether each row has a cosine and a t of its own.

    Returns:
        The merged delta. Shape (*weight).
    """
    mean = deltas.mean(0)
    if filter_wise and deltas.ndim > 2:
        return mean * _each_share(deltas).unsqueeze(-1)
    return mean * _share(gram(deltas))


@merge_methods.streamed("model_stock")
def model_stock_streamed(
    stack: Stack,
    weights: Tensor,  # noqa: ARG001  all models have the same say
    *,
    filter_wise: bool,
) -> Iterator[Tensor]:
    """Merge in two passes: lengths and angles, then the mean; with an angle for each row in one."""
    if filter_wise and len(stack.shape) > 1:
        columns = stack.shape[-1]
        for chunk in stack.chunks(columns):
            rows = chunk.view(len(chunk), -1, columns)
            share = _each_share(rows).div_(len(rows))
            yield row_sum(rows).mul_(share[:, None]).flatten()
        return
    each = _share(gram_streamed(stack)) / stack.models
    for chunk in stack.chunks():
        yield weighted_sum(chunk, [each] * len(chunk))


def _share(products: np.ndarray) -> float:
    """Return t for whole tensors, from the deltas' dot products."""
    count = len(products)
    mean = float(np.mean([cosine(products, a, b) for a, b in combinations(range(count), 2)]))
    below = 1 + (count - 1) * mean
    return count * mean / below if abs(below) >= _POLE else 0.0


def _each_share(deltas: Tensor) -> Tensor:
    """Return t for each row along the last dimension. Shape (models, *rows, columns) -> (*rows)."""
    count = len(deltas)
    lengths = [torch.linalg.vector_norm(delta, dim=-1, dtype=torch.float64) for delta in deltas]
    cosines = []
    for a, b in combinations(range(count), 2):
        scale = lengths[a] * lengths[b]
        products = torch.sum(deltas[a] * deltas[b], dim=-1, dtype=torch.float64)
        cosines.append(torch.where(scale > 0, products / scale, 0.0).clamp(-1, 1))
    mean = torch.stack(cosines).mean(0)
    below = 1 + (count - 1) * mean
    return torch.where(below.abs() >= _POLE, count * mean / below, 0.0).float()
