"""Multi-SLERP: the weighted mean direction of several models, at their weighted mean length."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.angles import direction_sum, gram, gram_streamed, unit_products
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "multislerp",
    source="Multi-SLERP of mergekit 0.1, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    space="weight",
    base="optional",
    nanoseconds=2.0,
    use="When you average models by direction, so that one with large changes does not drown the others.",
)
def multislerp(
    models: Tensor,
    weights: Tensor,
    *,
    normalize_weights: Annotated[bool, Field(description="Divide the weights by their sum")] = True,
    eps: Annotated[
        float, Field(gt=0, lt=1, description="Length of the mean direction below which directions cancel out")
    ] = 1e-8,
) -> Tensor:
    """Give the mean direction the mean length: (sum_i w_i |v_i|) m / |m|, m = sum_i w_i v_i / |v_i|.

    mergekit steps from m / |m| along the mean of the tangents at m, sum_i w_i (u_i - (u_i . m) m), with
    u_i the directions. That sum is zero by construction, at the very point m / |m| where it is taken, so
    its step is rounding noise of about eps, which we leave out; `karcher` finds the true mean on the
    sphere. One model is returned as it is. Where m is shorter than `eps`, two models are added by weight,
    and more are an error, as in mergekit. Departs from it where all models are zero (zero, no error), in
    that no absolute eps is added to the lengths, and in that weights that sum to zero are an error.

    Args:
        models: the models' values, or their deltas where the recipe names a base. Shape (models, *weight).
        weights: each model's say. Shape (models,).
        normalize_weights: whether to divide the weights by their sum.
        eps: see above; of lengths of 1, so it is relative.

    Returns:
        Shape (*weight).

    Raises:
        ValueError: the directions cancel out, or the weights sum to zero and are to be divided by it.
    """
    return weighted_sum(models, _shares(gram(models), weights, normalize_weights, eps))


@merge_methods.streamed("multislerp")
def multislerp_streamed(
    stack: Stack, weights: Tensor, *, normalize_weights: bool, eps: float
) -> Iterator[Tensor]:
    """Merge in two passes: lengths and angles, then the sum."""
    shares = _shares(gram_streamed(stack), weights, normalize_weights, eps)
    for chunk in stack.chunks():
        yield weighted_sum(chunk, shares)


def _shares(products: np.ndarray, weights: Tensor, normalize: bool, eps: float) -> list[float]:
    """Return the factor of each model in the result."""
    says: list[float] = weights.tolist()
    if len(says) == 1:
        return [1.0]
    if normalize:
        total = divisor(says)
        says = [say / total for say in says]
    lengths, units = unit_products(products)
    if not lengths.any():
        return [0.0] * len(says)
    length = direction_sum(units, says)
    if length < eps:
        if len(says) == 2:
            return says
        raise ValueError(
            "the weighted directions of the models cancel out, so their mean has none. Change a weight, or "
            "use linear."
        )
    scale = float(np.dot(says, lengths)) / length
    return [say * scale / each if each else 0.0 for say, each in zip(says, lengths.tolist(), strict=True)]
