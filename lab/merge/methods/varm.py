"""VaRM: models count by how far they moved, in the whole model, a layer, a matrix or a single number."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from lab.merge.agreement import row_sum, weighted_sum
from lab.merge.registry import Stack, merge_methods
from lab.merge.statistics import FirstPass, Knobs, Known, Scope, known_of
from lab.models.lazytorch import Tensor, torch

Granularity = Literal["model", "layer", "matrix", "parameter"]


def _scope(knobs: Knobs) -> Scope:
    return knobs["granularity"] if knobs["granularity"] in ("model", "layer") else "tensor"


def _read(stack: Stack, knobs: Knobs, known: Known, number: int) -> Tensor:  # noqa: ARG001  a `FirstPass.read`
    """Return each model's sum of squared deltas; mean(d^2) is that up to a factor that all models share."""
    powers = [0.0] * stack.models
    for rows in stack.chunks():
        powers = [power + torch.dot(row, row).item() for power, row in zip(powers, rows, strict=True)]
    return torch.tensor(powers, dtype=torch.float64)


def _settle(total: Tensor, knobs: Knobs, known: Known, number: int) -> Known:  # noqa: ARG001  one round
    whole = total.sum()
    return {"shares": total / whole if whole else torch.full_like(total, 1 / len(total))}


MOVED = FirstPass(scope=_scope, rounds=1, read=_read, settle=_settle, nanoseconds=1.5)


@merge_methods.register(
    "varm",
    source="FuseChat, arXiv:2402.16107, section 3.3 (VaRM)",
    weighted=False,
    nanoseconds=3.0,
    statistics=MOVED,
    use="When you fuse fine-tunes of one base and want those that changed most to count most.",
)
def varm(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  the method calculates its own
    *,
    granularity: Annotated[
        Granularity,
        Field(
            description="What shares one weight: the model, a layer, a matrix or each parameter. The paper's "
            "figures are nearly equal for the first three; 'parameter' destroyed the model there"
        ),
    ] = "matrix",
    known: Known | None = None,
) -> Tensor:
    """Average the deltas by W_i = mean(d_i^2) / sum_j mean(d_j^2): sum_i W_i d_i.

    The mean is over the whole model, the layer, this matrix, or this one number. A tensor outside the
    layers (embedding, last norm, output head) counts as a layer of its own. MT-Bench in the paper: 8.10,
    8.15, 8.22 (matrix, the one it chose) and 1.00. Where nobody moved the models count alike.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: not used.
        granularity: what the mean is over.
        known: for model and layer, `shares` as a first pass found them, shape (models,); without it this
            tensor is all there is.

    Returns:
        The merged delta. Shape (*weight).
    """
    rows = deltas.flatten(1)
    if granularity == "parameter":
        return _each(rows).view(deltas.shape[1:])
    total = torch.stack([torch.dot(row, row) for row in rows]).double()
    shares = (known or _settle(total, {}, {}, 0))["shares"]
    return weighted_sum(rows, shares.tolist()).view(deltas.shape[1:])


@merge_methods.streamed("varm")
def varm_streamed(
    stack: Stack,
    weights: Tensor,  # noqa: ARG001  the changes say who counts
    *,
    granularity: Granularity,
    known: Known | None = None,
) -> Iterator[Tensor]:
    """Merge in one pass where the shares are known or not needed, else in two."""
    if granularity == "parameter":
        yield from (_each(rows) for rows in stack.chunks())
        return
    shares = (known or known_of(MOVED, stack, {"granularity": granularity}))["shares"].tolist()
    for rows in stack.chunks():
        yield weighted_sum(rows, shares)


def _each(rows: Tensor) -> Tensor:
    """Return sum_i d_i^3 / sum_i d_i^2 for each number; zero where nobody moved."""
    largest = rows.abs().amax(0)
    scaled = rows / torch.where(largest > 0, largest, 1.0)  # squares of small changes would vanish
    squares = scaled * scaled
    total = row_sum(squares)
    return row_sum(squares * scaled).div_(torch.where(total > 0, total, 1.0)).mul_(largest)
