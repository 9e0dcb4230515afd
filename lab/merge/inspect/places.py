"""Which tensors of several models can be held against each other, and where each stands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lab.merge.ingredients import HEAD, Ingredient
from lab.merge.plan import FLOATS

_LAYER = re.compile(r"^(?:\w+\.)*?(?:layers|h|blocks)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model.

    Attributes:
        layer: its layer, counted from 0; None outside layers.
        kind: its module within the layer, such as "self_attn.q_proj"; experts are one kind together.
    """

    layer: int | None
    kind: str


def place_of(tensor: str) -> Place:
    """Return the layer and the kind of a tensor, from its name."""
    match = _LAYER.match(tensor)
    rest = match[2] if match else tensor.removeprefix("model.").removeprefix("transformer.")
    words = ["*" if part.isdigit() else part for part in rest.removesuffix(".weight").split(".")]
    return Place(int(match[1]) if match else None, ".".join(words))


def shared_tensors(base: Ingredient, models: Sequence[Ingredient]) -> tuple[list[str], list[str]]:
    """Return the tensors that can be held against each other, and those that can't.

    A tensor can be where all models have it with the same shape, as floating point numbers. Of a tied
    model the output head is the embedding and counts once.
    """
    fit: list[str] = []
    rest: list[str] = []
    for name in base.tensors:
        if base.tensor(name) != name:
            continue
        own = base.tensors[name]
        infos = [model.tensors[at] for model in models if (at := model.tensor(name)) is not None]
        same = [one for one in (own, *infos) if one.shape == own.shape and one.dtype in FLOATS]
        (fit if len(same) == len(models) + 1 else rest).append(name)
    extra = {name for model in models for name in model.tensors if name not in base.tensors and name != HEAD}
    return fit, rest + sorted(extra)
