"""NearSwap: move every number of the base a little towards another model."""

from typing import Annotated

from pydantic import Field

from lab.merge.registry import merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "nearswap",
    source="NearSwap of mergekit; alchemonaut/QuartetAnemoi-70B-t0.0001",
    models=(1, 1),
    weighted=False,
    elementwise=True,
    nanoseconds=2.0,
    use="When you want a touch of another model: close numbers become its, far ones move by t at most.",
)
def nearswap(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  there is one model
    *,
    t: Annotated[
        float, Field(ge=0, description="How far a number may move; weights are around 0.02 in size")
    ] = 0.0001,
) -> Tensor:
    """Move each element towards the other model by t at most: clamp(d, -t, t).

    mergekit writes it as w x + (1 - w) b with w = clamp(t / max(|x - b|, 1e-6), 0, 1), which is the same
    but for its floor of 1e-6, and has no default for t; ours is that of the model it was made for.

    Args:
        deltas: the other model minus the base. Shape (1, *weight), float32.
        weights: not used.
        t: the largest change, in units of the weights, not negative.

    Returns:
        The merged delta. Shape (*weight).
    """
    return deltas[0].clamp(-t, t)
