"""One model's values as they are: for stacking layers."""

from typing import Annotated

from pydantic import Field

from lab.merge.registry import PerModel, for_each, merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "passthrough",
    source="SOLAR, arXiv:2312.15166, section 2 (depth up-scaling)",
    space="weight",
    models=(1, 1),
    weighted=False,
    elementwise=True,
    shows_faults=True,
    nanoseconds=1.0,
    use="When you stack layers: depth up-scaling repeats the middle of a model, to be trained further.",
)
def passthrough(
    models: Tensor,
    weights: Tensor,  # noqa: ARG001  every method has the same two
    *,
    scale: Annotated[PerModel, Field(description="Multiplies the values; 1 leaves them alone")] = 1.0,
) -> Tensor:
    """Return the one model's values, times `scale`.

    Args:
        models: the model's values. Shape (1, *weight), float32.
        weights: not used.
        scale: factor of the values.

    Returns:
        Shape (*weight).
    """
    return models[0] * for_each(scale, 1)[0]
