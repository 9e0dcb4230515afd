"""The Karcher mean: the point on the sphere with the least summed squared angle to all models."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from lab.merge.agreement import weighted_sum
from lab.merge.angles import gram, gram_streamed, karcher_shares
from lab.merge.registry import Stack, merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "karcher",
    source="Riemannian center of mass, Karcher, 1977; arXiv:2603.04972",
    space="weight",
    weighted=False,
    nanoseconds=2.0,
    use="When you blend three or more models that have grown apart, all with the same say.",
)
def karcher(
    models: Tensor,
    weights: Tensor,  # noqa: ARG001  all models have the same say
    *,
    max_iter: Annotated[int, Field(ge=1, le=1000, description="The most steps towards the mean")] = 10,
    tol: Annotated[
        float, Field(gt=0, lt=1, description="A step shorter than this, in radians, ends the search")
    ] = 1e-5,
) -> Tensor:
    """Find the mean direction on the sphere step by step, and give it the models' mean length.

    From the normalised mean of the directions u_i, each step goes along
    T = mean_i theta_i / sin(theta_i) (u_i - cos(theta_i) u), where theta_i is the angle between u and
    u_i: u becomes cos|T| u + sin|T| T / |T|. Every u on the way is a weighted sum of the models, so the
    steps need their dot products only. Departs from mergekit in that `tol` is for angles only: a model
    counts as zero, and has no direction, where it is zero, at any scale; and one at the antipode doesn't
    pull, where mergekit divides by zero.

    Args:
        models: one row for each model. Shape (models, *weight), float32.
        weights: not used.
        max_iter: the most steps.
        tol: the least step, and the least angle that pulls, in radians.

    Returns:
        Shape (*weight).
    """
    return weighted_sum(models, karcher_shares(gram(models), max_iter, tol).tolist())


@merge_methods.streamed("karcher")
def karcher_streamed(
    stack: Stack,
    weights: Tensor,  # noqa: ARG001  all models have the same say
    *,
    max_iter: int,
    tol: float,
) -> Iterator[Tensor]:
    """Merge in two passes: lengths and angles, then the sum."""
    shares = karcher_shares(gram_streamed(stack), max_iter, tol).tolist()
    for chunk in stack.chunks():
        yield weighted_sum(chunk, shares)
