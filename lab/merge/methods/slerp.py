"""Interpolation of two models along the arc between them."""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from lab.merge.agreement import weighted_sum
from lab.merge.angles import NEARLY_PARALLEL, arc_shares, cosine, gram, gram_streamed
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "slerp",
    source="Animating rotation with quaternion curves, Shoemake, SIGGRAPH 1985",
    space="weight",
    models=(2, 2),
    weighted=False,
    base="first",
    shows_faults=True,
    nanoseconds=1.5,
    use="When you blend two models that have grown apart; for two light fine-tunes it is the plain average.",
)
def slerp(
    models: Tensor,
    weights: Tensor,  # noqa: ARG001  every method has the same two
    *,
    t: Annotated[float, Field(ge=0, le=1, description="0 is the base, 1 the other model")] = 0.5,
) -> Tensor:
    """Interpolate along the arc: (sin((1-t)theta) a + sin(t theta) b) / sin(theta).

    theta is the angle between the two tensors, each taken as one vector. Where cos(theta) is beyond
    0.9995 either way, or one of them is zero, it is the line (1-t) a + t b. The lengths are not
    interpolated. Departs from mergekit in what counts as a zero tensor: only zero itself, at any scale.

    Args:
        models: the base a, then the other b. Shape (2, *weight), float32.
        weights: not used.
        t: where between the two, from 0 (base) to 1 (other).

    Returns:
        Shape (*weight).
    """
    return weighted_sum(models, _shares(gram(models), t))


@merge_methods.streamed("slerp")
def slerp_streamed(stack: Stack, weights: Tensor, *, t: float) -> Iterator[Tensor]:  # noqa: ARG001
    """Interpolate in two passes: lengths and angle, then the sum."""
    shares = _shares(gram_streamed(stack), t)
    for chunk in stack.chunks():
        yield weighted_sum(chunk, shares)


def _shares(products: np.ndarray, t: float) -> tuple[float, float]:
    if not products[0, 0] or not products[1, 1]:
        return 1.0 - t, t
    return arc_shares(cosine(products, 0, 1), t, NEARLY_PARALLEL)
