"""The weighted sum of the models' deltas, added to the base."""

from typing import Annotated

from pydantic import Field

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.registry import merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "task_arithmetic",
    source="Editing models with task arithmetic, arXiv:2212.04089",
    elementwise=True,
    shows_faults=True,
    nanoseconds=1.5,
    use="When you want to add up what each fine-tune learned, or with a negative weight to take it away.",
)
def task_arithmetic(
    deltas: Tensor,
    weights: Tensor,
    *,
    normalize: Annotated[bool, Field(description="Divide by the sum of the weights")] = False,
    lambda_: Annotated[
        float, Field(description="Multiplies the merged delta before it is added to the base")
    ] = 1.0,
) -> Tensor:
    """Sum the deltas: lambda * sum_i w_i d_i, divided by sum_i w_i with `normalize`.

    Departs from mergekit where the weights sum to zero with `normalize`: that is an error, not a
    division by one.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        normalize: whether to divide by the sum of the weights.
        lambda_: factor of the merged delta.

    Returns:
        The merged delta. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    says = weights.tolist()
    factor = lambda_ / divisor(says) if normalize else lambda_
    return weighted_sum(deltas, [say * factor for say in says])
