"""Finds, for every layer, which hidden units of each model belong to which of the first model's.

Weight matching: no data is needed. Keeps what it found in the job's folder.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.core.job import Job
from lab.merge.plan import MergePlan, OutputTensor, Part
from lab.merge.reading import Reader, Values
from lab.merge.statistics import Known
from lab.merge.units import Side, Units, units_of

_REPORT_SECONDS = 0.25


class Aligned:
    """The orders that were found, by tensor: `rows.1` is the order of the second model's rows."""

    def __init__(self, orders: Mapping[str, Tensor]) -> None:
        self._orders = orders

    def known_for(self, tensor: OutputTensor) -> Known:
        """Return a tensor's orders as the method takes them; nothing where nothing is permuted."""
        stem = f"{tensor.name}/"
        return {key.removeprefix(stem): order for key, order in self._orders.items() if key.startswith(stem)}


def align(plan: MergePlan, file: Path, recipe: str, job: Job) -> Aligned:
    """Match the units of every layer, or take them from an earlier attempt's file.

    Args:
        plan: a merge of whole models.
        file: where the orders are kept.
        recipe: what is being made; orders for another recipe don't count.
        job: asked now and then whether to go on.

    Raises:
        ControlFlow: the job was cancelled, released or fenced.
    """
    if (kept := _kept(file, recipe)) is not None:
        return Aligned(kept)
    reader, tensors = Reader(), {tensor.name: tensor for tensor in plan.tensors}
    orders: dict[str, Tensor] = {}
    told, every = time.monotonic(), units_of(plan)
    for number, units in enumerate(every):
        job.breathe()
        for place, order in enumerate(_match(units, tensors, reader), 1):
            for side in units.sides:
                spread = order[:, None] * side.block + torch.arange(side.block)  # (units, block)
                orders[f"{side.tensor}/{side.axis}.{place}"] = spread.flatten()
        if time.monotonic() - told > _REPORT_SECONDS:
            told = time.monotonic()
            job.progress(0.3 * number / len(every), f"Matching units, {number} of {len(every)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    save_file(orders or {"none": torch.zeros(1)}, draft, {"recipe": recipe})
    draft.rename(file)
    return Aligned(orders)


def best_order(first: Tensor, other: Tensor) -> Tensor:
    """Return the order of the other's units that makes sum_u <first_u, other_order(u)> largest.

    Args:
        first: a row for each unit of the first model. Shape (units, any), float32.
        other: the same of the other model.

    Returns:
        Shape (units,), int64.
    """
    from scipy.optimize import linear_sum_assignment  # other merges do without scipy

    _, order = linear_sum_assignment((first @ other.T).numpy(), maximize=True)
    return torch.from_numpy(order).long()


def _match(units: Units, tensors: Mapping[str, OutputTensor], reader: Reader) -> list[Tensor]:
    """Return the order of every model's units but the first's."""
    count = len(tensors[units.sides[0].tensor].inputs)
    models = [
        torch.cat(
            [_by_unit(side, tensors[side.tensor].inputs[place], units.count, reader) for side in units.sides],
            1,
        )
        for place in range(count)
    ]
    return [best_order(models[0], other) for other in models[1:]]


def _by_unit(side: Side, part: Part, count: int, reader: Reader) -> Tensor:
    """Return a tensor with a row for each unit. Shape (units, the rest)."""
    values = torch.empty(part.info.elements)
    Values(part, reader).read(0, values)
    reader.drop(part.info)
    whole = values.view(part.info.shape)
    return (whole if side.axis == "rows" else whole.T).reshape(count, -1)


def _kept(file: Path, recipe: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("recipe") != recipe:
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError):
        return None
