"""Interpolation of two models along the arc between them."""

from collections.abc import Iterator
from math import acos, sin, sqrt
from typing import Annotated

from pydantic import Field

from lab.merge.agreement import weighted_sum
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor, torch

NEARLY_PARALLEL = 0.9995
"""Cosine beyond which the arc is a line, as in mergekit."""


@merge_methods.register(
    "slerp",
    source="Animating rotation with quaternion curves, Shoemake, SIGGRAPH 1985",
    space="weight",
    models=(2, 2),
    weighted=False,
    base="first",
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
    a, b = models[0].flatten(), models[1].flatten()
    return weighted_sum(models, _shares(_dot(a, a), _dot(b, b), _dot(a, b), t))


@merge_methods.streamed("slerp")
def slerp_streamed(stack: Stack, weights: Tensor, *, t: float) -> Iterator[Tensor]:  # noqa: ARG001
    """Interpolate in two passes: lengths and angle, then the sum."""
    aa = bb = ab = 0.0
    for chunk in stack.chunks():
        aa += _dot(chunk[0], chunk[0])
        bb += _dot(chunk[1], chunk[1])
        ab += _dot(chunk[0], chunk[1])
    shares = _shares(aa, bb, ab, t)
    for chunk in stack.chunks():
        yield weighted_sum(chunk, shares)


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a, b).item()


def _shares(aa: float, bb: float, ab: float, t: float) -> tuple[float, float]:
    """Return the factors of a and b, from their squared lengths and their dot product."""
    cosine = ab / sqrt(aa * bb) if aa and bb else 0.0
    cosine = max(-1.0, min(1.0, cosine))
    if not aa or not bb or abs(cosine) > NEARLY_PARALLEL:
        return 1.0 - t, t
    theta = acos(cosine)
    return sin((1.0 - t) * theta) / sin(theta), sin(t * theta) / sin(theta)
