"""RegMean: the linear layer that answers each model's own inputs as that model did, as nearly as one can."""

from typing import Annotated

from pydantic import Field

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.registry import merge_methods
from lab.merge.statistics import Known
from lab.models.lazytorch import Tensor, torch

RIDGE = 1e-6
"""Added to the Gram matrices' diagonal, as a share of its mean: what no input tells is averaged."""


@merge_methods.register(
    "regmean",
    source="RegMean, arXiv:2212.09849",
    space="weight",
    nanoseconds=5.0,
    calibration="gram",
    use="When you have each model's text: layers are fitted to what each model makes of its own inputs.",
)
def regmean(
    models: Tensor,
    weights: Tensor,
    *,
    alpha: Annotated[
        float,
        Field(ge=0, le=1, description="Factor of the Gram matrices outside their diagonal; 0.9 in the paper"),
    ] = 0.9,
    known: Known | None = None,
) -> Tensor:
    """Solve the least squares problem in closed form: W = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i.

    W_i is a linear layer as (inputs, outputs), G_i = X_i^T X_i / rows of X_i what its model fed it,
    outside the diagonal times alpha. That minimises sum_i w_i |X_i W - X_i W_i|^2 for alpha 1. Tensors
    that are no linear layer are averaged by the weights. The ridge that makes G invertible is ours: it
    leaves the average where no input tells.

    Args:
        models: one row for each model. Shape (models, outputs, inputs) for linear layers, float32.
        weights: each model's say. Shape (models,).
        alpha: factor outside the diagonal, in [0, 1].
        known: `gram.0`, `gram.1`, ...: each model's G, shape (inputs, inputs); without it the models are
            averaged.

    Returns:
        The merged values. Shape (*weight).

    Raises:
        ValueError: the weights sum to zero.
    """
    says = weights.tolist()
    total = divisor(says)
    average = weighted_sum(models, [say / total for say in says])
    if not known or models.ndim != 3:
        return average
    return _solved(models, [say / total for say in says], average, alpha, known)


def _solved(models: Tensor, says: list[float], average: Tensor, alpha: float, known: Known) -> Tensor:
    size = models.shape[2]
    left = torch.zeros(size, size, dtype=torch.float64)  # sum_i w_i G_i
    right = torch.zeros(size, models.shape[1], dtype=torch.float64)  # sum_i w_i G_i W_i
    for place, (values, say) in enumerate(zip(models, says, strict=True)):
        gram = known[f"gram.{place}"].double()
        diagonal = gram.diagonal().clone()
        gram = gram.mul(alpha * say)
        gram.diagonal().copy_(diagonal * say)
        left += gram
        right += gram @ values.T.double()
    ridge = RIDGE * left.diagonal().abs().mean().item()
    if ridge == 0.0:
        return average
    left.diagonal().add_(ridge)
    right += ridge * average.T.double()
    return torch.linalg.solve(left, right).T.float().contiguous()
