"""NuSLERP: interpolation along the arc between two models, or between what two fine-tunes changed."""

from collections.abc import Iterator
from math import prod
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.merge.agreement import weighted_sum
from lab.merge.angles import arc_shares, cosine, gram, gram_streamed
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor, torch

COLINEAR = 1.0 - 1e-12
"""Cosine beyond which the arc is a line; mergekit's bound of 1 - cos^2 <= 1e-16 is cos = 1 in float32."""


@merge_methods.register(
    "nuslerp",
    source="NuSLERP of mergekit 0.1; Shoemake, SIGGRAPH 1985",
    space="weight",
    models=(2, 2),
    base="optional",
    nanoseconds=2.0,
    use="When you blend two fine-tunes with weights: with a base, along the arc between what each changed.",
)
def nuslerp(
    models: Tensor,
    weights: Tensor,
    *,
    nuslerp_row_wise: Annotated[
        bool, Field(description="With flatten off: vectors along the first dimension instead of the last")
    ] = False,
    nuslerp_flatten: Annotated[
        bool, Field(description="Take each tensor as one vector; off: each row or column for itself")
    ] = True,
) -> Tensor:
    """Interpolate along the arc: (sin((1-t)theta) a + sin(t theta) b) / sin(theta), t = w_2 / (w_1 + w_2).

    theta is the angle between a and b: the whole tensors, or with `nuslerp_flatten` off each vector
    along the last dimension (with `nuslerp_row_wise` along the first). Lengths are not interpolated;
    colinear vectors are interpolated on the line, and so is a pair of which one is zero (mergekit takes
    lengths below 1e-7 for zero, at a right angle). Weights that sum to zero give t = 0.5, as in mergekit,
    where "zero" is relative to their size here.

    Args:
        models: the two models' values, or their deltas where the recipe names a base. Shape (2, *weight).
        weights: w_1 and w_2. Shape (2,).
        nuslerp_row_wise: which vectors, where they are not the whole tensors.
        nuslerp_flatten: whether the vectors are the whole tensors.

    Returns:
        Shape (*weight).
    """
    t = _place(weights)
    if nuslerp_flatten:
        return weighted_sum(models, _shares(gram(models), t))
    along = 1 if nuslerp_row_wise or models.ndim == 2 else models.ndim - 1
    shares = _shares_each(*(_products(models, along)), t)
    return models[0] * shares[0].unsqueeze(along - 1) + models[1] * shares[1].unsqueeze(along - 1)


@merge_methods.streamed("nuslerp")
def nuslerp_streamed(
    stack: Stack, weights: Tensor, *, nuslerp_row_wise: bool, nuslerp_flatten: bool
) -> Iterator[Tensor]:
    """Interpolate in two passes: lengths and angles, then the sum; of rows, in one pass."""
    t = _place(weights)
    if nuslerp_flatten or len(stack.shape) < 2:
        shares = _shares(gram_streamed(stack), t)
        return (weighted_sum(chunk, shares) for chunk in stack.chunks())
    return _columns(stack, t) if nuslerp_row_wise else _rows(stack, t)


def _rows(stack: Stack, t: float) -> Iterator[Tensor]:
    """Interpolate each vector along the last dimension, in one pass over whole rows."""
    columns = stack.shape[-1]
    for chunk in stack.chunks(columns):
        rows = chunk.view(2, -1, columns)
        a, b = _shares_each(*_products(rows, 2), t)
        rows[0].mul_(a[:, None]).add_(rows[1].mul_(b[:, None]))
        yield chunk[0]


def _columns(stack: Stack, t: float) -> Iterator[Tensor]:
    """Interpolate each vector along the first dimension, in two passes."""
    inner = prod(stack.shape[1:])
    sums = torch.zeros(3, inner, dtype=torch.float64)
    for chunk in stack.chunks(inner):
        sums += torch.stack(_products(chunk.view(2, -1, inner), 1))
    a, b = _shares_each(sums[0], sums[1], sums[2], t)
    for chunk in stack.chunks(inner):
        rows = chunk.view(2, -1, inner)
        rows[0].mul_(a).add_(rows[1].mul_(b))
        yield chunk[0]


def _place(weights: Tensor) -> float:
    first, second = weights.tolist()
    total = first + second
    return second / total if abs(total) > 1e-6 * (abs(first) + abs(second)) else 0.5


def _shares(products: np.ndarray, t: float) -> tuple[float, float]:
    if not products[0, 0] or not products[1, 1]:
        return 1.0 - t, t
    return arc_shares(cosine(products, 0, 1), t, COLINEAR)


def _products(models: Tensor, along: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squared lengths and the dot product of the vectors along a dimension, in float64."""
    a, b = models
    pairs = ((a, a), (b, b), (a, b))
    aa, bb, ab = (torch.sum(left * right, dim=along - 1, dtype=torch.float64) for left, right in pairs)
    return aa, bb, ab


def _shares_each(aa: Tensor, bb: Tensor, ab: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return the factors of a and b for many pairs of vectors, in float32."""
    scale = (aa * bb).sqrt()
    cosines = (ab / scale.clamp_min(torch.finfo(torch.float64).tiny)).clamp(-1, 1)
    is_line = (cosines.abs() > COLINEAR) | (scale == 0)
    theta = torch.where(is_line, 1.0, cosines).acos()
    theta = torch.where(is_line, 1.0, theta)
    first = torch.where(is_line, 1.0 - t, ((1.0 - t) * theta).sin() / theta.sin())
    second = torch.where(is_line, t, (t * theta).sin() / theta.sin())
    return first.float(), second.float()
