"""SCE: select where the models differ most, calculate their shares, erase the minority's signs."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lab.merge.agreement import agreeing_average, row_sum
from lab.merge.registry import Stack, merge_methods
from lab.merge.selection import Cut, cut_of_nonzero, keep_largest, sample_size
from lab.models.lazytorch import Tensor, torch

_MOST_KEPT = 1 << 23  # variances of a tensor, 32 MiB; more are worked out again

SelectScope = Literal["update", "coefficients"]


@merge_methods.register(
    "sce",
    source="FuseChat, arXiv:2408.07990, section 3.3",
    weighted=False,
    nanoseconds=9.0,
    use="When you fuse fine-tunes of one base and have no weights in mind: each tensor finds its own.",
)
def sce(
    deltas: Tensor,
    weights: Tensor,  # noqa: ARG001  the method calculates its own
    *,
    select_topk: Annotated[
        float,
        Field(ge=0, le=1, description="Share of the elements to keep, those where the models differ most"),
    ] = 1.0,
    select_scope: Annotated[
        SelectScope,
        Field(
            description="What the selection is for. update: only what was selected changes (the paper, "
            "mergekit). coefficients: it only weighs the models, and all their changes are merged (the "
            "authors' code)"
        ),
    ] = "update",
) -> Tensor:
    """Select, calculate, erase: sum_i W_i d_i over what agrees, divided by the agreeing W_i.

    Select: of the elements whose variance over the models is not zero, keep the floor(select_topk *
    count) of highest variance, the same for all models (with select_topk = 1, every element).
    Calculate: W_i = mean(d_i^2) / sum_j mean(d_j^2), one number for each model and tensor. Erase: drop
    what has not the sign of sum_i d_i.

    As mergekit has it, with two departures: its absolute thresholds of 1e-6, which on light fine-tunes
    silently turn Calculate off, are tests for zero here; and of equal variances the first are kept.
    The authors' code, which made FuseChat-7B-v2.0, uses the selection for Calculate only: that is
    select_scope "coefficients". With select_topk = 1 the two are the same.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: not used.
        select_topk: share of the differing elements to keep, in [0, 1].
        select_scope: whether only the selected elements change, or the selection only weighs the models.

    Returns:
        The merged delta. Shape (*weight).
    """
    rows = deltas.flatten(1).clone()
    if select_topk < 1:
        spread = variance(rows)
        rows *= keep_largest(spread, int(int(torch.count_nonzero(spread)) * select_topk)) > 0
    shares = _shares([_power(row) for row in rows])
    merged = deltas.flatten(1).clone() if select_scope == "coefficients" else rows
    return agreeing_average(merged, shares).view(deltas.shape[1:])


@merge_methods.streamed("sce")
def sce_streamed(
    stack: Stack, weights: Tensor, *, select_topk: float, select_scope: SelectScope
) -> Iterator[Tensor]:
    """Merge in two passes, or with a selection in three: find the cut, calculate, erase."""
    selection = _Selection(*_cut(stack, select_topk)) if select_topk < 1 else None
    powers = [0.0] * len(weights)
    for place, rows in enumerate(stack.chunks()):
        chosen = selection.choose(place, rows) if selection else rows
        powers = [power + _power(row) for power, row in zip(powers, chosen, strict=True)]
    shares = _shares(powers)
    narrow = selection if select_scope == "update" else None
    for place, rows in enumerate(stack.chunks()):
        yield agreeing_average(narrow.repeat(place, rows) if narrow else rows, shares)


def variance(rows: Tensor) -> Tensor:
    """Return the population variance over the rows. Shape (rows, elements) -> (elements,)."""
    mean = row_sum(rows).div_(len(rows))
    spread, apart = torch.zeros_like(mean), torch.empty_like(mean)
    for row in rows:
        torch.sub(row, mean, out=apart)
        spread.addcmul_(apart, apart)
    return spread.div_(len(rows))


class _Selection:
    """Which elements are selected: decided in one pass, a bit for each is kept for the next."""

    def __init__(self, cut: Cut, spreads: Sequence[Tensor]) -> None:
        self._cut, self._spreads = cut, spreads
        self._masks: list[np.ndarray] = []

    def choose(self, place: int, rows: Tensor) -> Tensor:
        """Set what is not selected to zero, in place; the chunks of a pass in order."""
        spread = self._spreads[place] if self._spreads else variance(rows)
        mask = self._cut.trim(spread).numpy() > 0
        self._masks.append(np.packbits(mask))
        return self._only(rows, mask)

    def repeat(self, place: int, rows: Tensor) -> Tensor:
        """Do with a chunk what was done with it before."""
        return self._only(rows, np.unpackbits(self._masks[place], count=rows.shape[1]).view(bool))

    def _only(self, rows: Tensor, mask: np.ndarray) -> Tensor:
        return rows.mul_(torch.from_numpy(mask.astype(np.float32)))  # bool masks take three times as long


def _cut(stack: Stack, select_topk: float) -> tuple[Cut, Sequence[Tensor]]:
    """Find what separates the highest variances from the rest; return it with the chunks' variances.

    Those of a large tensor are not kept.
    """
    total = torch.Size(stack.shape).numel()
    sample = variance(stack.sample(sample_size(total)))
    spreads: list[Tensor] = []

    def passes() -> Iterator[list[Tensor]]:
        keeps = not spreads and total <= _MOST_KEPT
        for rows in stack.chunks():
            spread = variance(rows)
            if keeps:
                spreads.append(spread)
            yield [spread]

    return cut_of_nonzero(passes, select_topk, total, sample), spreads


def _power(row: Tensor) -> float:
    """Return the sum of squares, as mean(d^2) up to a factor that all models share."""
    return torch.dot(row, row).item()


def _shares(powers: list[float]) -> list[float]:
    total = sum(powers)
    return [power / total if total else 1 / len(powers) for power in powers]
