"""A weighted average of the models' values."""

from typing import Annotated

from pydantic import Field

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.registry import merge_methods
from lab.models.lazytorch import Tensor


@merge_methods.register(
    "linear",
    source="Model soups, arXiv:2203.05482",
    space="weight",
    elementwise=True,
    shows_faults=True,
    nanoseconds=1.0,
    use="When all models are good fine-tunes of one base: the plain average is hard to beat.",
)
def linear(
    models: Tensor,
    weights: Tensor,
    *,
    normalize: Annotated[bool, Field(description="Divide by the sum of the weights")] = True,
) -> Tensor:
    """Average the models' values: sum_i w_i x_i, divided by sum_i w_i with `normalize`.

    Departs from mergekit where the weights sum to zero: that is an error, not infinity.

    Args:
        models: one row for each model. Shape (models, *weight), float32.
        weights: each model's say; negative is allowed. Shape (models,).
        normalize: whether to divide by the sum of the weights.

    Returns:
        The merged values. Shape (*weight).

    Raises:
        ValueError: with `normalize`, the weights sum to zero.
    """
    says = weights.tolist()
    if normalize:
        total = divisor(says)
        says = [say / total for say in says]
    return weighted_sum(models, says)
