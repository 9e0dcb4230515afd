"""Fisher merging: each weight counts by how much its model's answers hang on it."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.registry import Stack, merge_methods
from lab.merge.statistics import Known
from lab.models.lazytorch import Tensor, torch


@merge_methods.register(
    "fisher",
    source="Fisher merging, arXiv:2111.09832",
    space="weight",
    nanoseconds=4.0,
    calibration="fisher",
    use="When you have each model's text: every weight follows the model that it matters most to.",
)
def fisher(
    models: Tensor,
    weights: Tensor,
    *,
    floor: Annotated[
        float,
        Field(gt=0, le=1, description="Added to every sensitivity, as a share of the tensor's mean one"),
    ] = 1e-3,
    known: Known | None = None,
) -> Tensor:
    """Average by sensitivity: sum_i w_i (F_i + e) x_i / sum_i w_i (F_i + e).

    F_i is the diagonal of the empirical Fisher information, the mean over texts of the squared gradient
    of the text's log-likelihood. e = floor * the tensor's mean F over all models, so that weights which
    no text touched are averaged; the paper's floor is an absolute number, and so changes with the scale.

    Args:
        models: one row for each model. Shape (models, *weight), float32.
        weights: each model's say. Shape (models,).
        floor: e as a share of the tensor's mean sensitivity, in (0, 1].
        known: `fisher.0`, `fisher.1`, ...: each model's F, of the weight's shape; without it the models
            are averaged by their weights.

    Returns:
        The merged values. Shape (*weight).

    Raises:
        ValueError: the weights sum to zero.
    """
    says = weights.tolist()
    total = divisor(says)
    rows = _rows(known, len(models))
    if not rows:
        return weighted_sum(models, [say / total for say in says])
    added = floor * _mean(rows)
    merged = _weighed(models.flatten(1), says, [row.flatten() for row in rows], added)
    return merged.view(models.shape[1:])


@merge_methods.streamed("fisher")
def fisher_streamed(
    stack: Stack, weights: Tensor, *, floor: float, known: Known | None = None
) -> Iterator[Tensor]:
    """Merge in one pass; the sensitivities are read beside the values."""
    says = weights.tolist()
    total = divisor(says)
    rows = [row.flatten() for row in _rows(known, len(says))]
    added, start = floor * _mean(rows) if rows else 0.0, 0
    for values in stack.chunks():
        stop = start + values.shape[1]
        if rows:
            yield _weighed(values, says, [row[start:stop] for row in rows], added)
        else:
            yield weighted_sum(values, [say / total for say in says])
        start = stop


def _rows(known: Known | None, count: int) -> list[Tensor]:
    names = [f"fisher.{model}" for model in range(count)]
    return [known[name] for name in names] if known and all(name in known for name in names) else []


def _mean(rows: Sequence[Tensor]) -> float:
    return sum(row.mean(dtype=torch.float64).item() for row in rows) / len(rows)


def _weighed(values: Tensor, says: Sequence[float], rows: Sequence[Tensor], added: float) -> Tensor:
    """Return the sum of the values by says and sensitivities; where those are all zero, by says alone."""
    scale = 1.0 / added if added else 0.0  # squared gradients may be far below float32's smallest square
    share = torch.stack([row.float() * scale + 1.0 for row in rows])
    share *= torch.tensor(says)[:, None]
    return (share * values).sum(0).div_(share.sum(0))
