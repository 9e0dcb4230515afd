"""Which number every tensor of a merge gets, as rows for a heat map. Pure.

Tensors of a layer that get the same number in every layer share a row: without filters a model has
one. What stands before and behind the layers takes a gradient's first value, and is drawn so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.merge.plan import MergePlan, OutputTensor
from lab.ui.charts import HeatRow

WEIGHT = "weight"
EVERY_MODEL = "all models"
_NUMBERS = re.compile(r"\.\d+(?=\.|$)")
_LAYER = re.compile(r"^(?:\w+\.)*?(?:layers|h|blocks)\.(\d+)\.(.+?)(?:\.weight)?$")
_DIGITS = 9  # numbers that differ less than a float's rounding are one

Series = tuple[float | None, ...]


@dataclass
class _Strand:
    """The numbers of one model: by kind of tensor and layer, and outside the layers."""

    kinds: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    outer: dict[str, float] = field(default_factory=dict)

    def add(self, tensor: str, value: float) -> None:
        match = _LAYER.match(tensor)
        if match is None:
            self.outer[tensor] = value
            return
        kind = _NUMBERS.sub(".*", match[2])  # an expert's number is no kind of its own
        self.kinds.setdefault(kind, {}).setdefault(int(match[1]), []).append(value)

    def groups(self, layers: int) -> list[tuple[list[str], Series]]:
        """Return kinds that agree in every layer, the largest group first."""
        found: dict[Series, list[str]] = {}
        for kind, by_layer in self.kinds.items():
            series = tuple(_mean(by_layer.get(layer)) for layer in range(layers))
            found.setdefault(series, []).append(kind)
        return sorted(((kinds, series) for series, kinds in found.items()), key=lambda item: -len(item[0]))


def drawable(plan: MergePlan) -> list[str]:
    """Return what can be drawn of a merge: the weight and every knob that is a number; what varies first."""
    names = [WEIGHT] if plan.method.weighted else []
    for argument, info in plan.method.knobs.model_fields.items():
        values = [tensor.knobs[argument] for tensor in plan.tensors if argument in tensor.knobs]
        if values and all(_is_number(value) for value in values):
            names.append(info.alias or argument)
    return sorted(names, key=lambda name: (not _varies(plan, name), names.index(name)))


def heat_rows(plan: MergePlan, what: str) -> list[HeatRow]:
    """Return the rows of one parameter.

    Args:
        plan: the merge.
        what: one of `drawable(plan)`.
    """
    strands: dict[str, _Strand] = {}
    for tensor in plan.tensors:
        if tensor.copied:
            continue
        for model, value in _values(plan, tensor, what):
            strands.setdefault(model, _Strand()).add(tensor.name, value)
    before = _before(plan)
    rows = []
    for place, (model, strand) in enumerate(strands.items()):
        letter = "" if model == EVERY_MODEL else "ABCDEFGHI"[place % 9]
        rows += _rows_of(model, letter, strand, plan.layers, before)
    return rows


def _rows_of(model: str, letter: str, strand: _Strand, layers: int, before: Sequence[str]) -> list[HeatRow]:
    outer_before = [(name, strand.outer[name]) for name in before if name in strand.outer]
    outer_after = [(name, value) for name, value in strand.outer.items() if name not in before]
    groups = strand.groups(layers)
    rows = []
    for place, (kinds, series) in enumerate(groups):
        words = _kinds_in_words(kinds, list(strand.kinds), is_alone=len(groups) == 1)
        rows.append(
            HeatRow(
                label=" ".join(part for part in (letter, words) if part) or "all",
                words=f"{model}, {words}" if words else model,
                cells=series,
                before=tuple(outer_before) if place == 0 else (),
                after=tuple(outer_after) if place == 0 else (),
            )
        )
    return rows


def _kinds_in_words(kinds: Sequence[str], every: Sequence[str], *, is_alone: bool) -> str:
    """Name a group of kinds as shortly as it can be told from the others."""
    if is_alone:
        return ""
    stem = _common_stem(kinds)
    if stem and len(kinds) > 1 and set(kinds) == {kind for kind in every if kind.startswith(f"{stem}.")}:
        return stem.removesuffix(".*").split(".")[-1]
    if len(kinds) > len(every) / 2:
        return "rest"
    first = kinds[0].removesuffix(".*").split(".")[-1]
    return first if len(kinds) == 1 else f"{first} +{len(kinds) - 1}"


def _common_stem(kinds: Sequence[str]) -> str:
    """Return the modules that all kinds lie in: "mlp" of mlp.up_proj and mlp.down_proj."""
    parts = [kind.split(".")[:-1] for kind in kinds]
    common = 0
    while all(len(one) > common and one[common] == parts[0][common] for one in parts):
        common += 1
    return ".".join(parts[0][:common])


def _values(plan: MergePlan, tensor: OutputTensor, what: str) -> list[tuple[str, float]]:
    """Return each model's number for one tensor; a knob for all models is told once."""
    refs = [part.model.ref for part in tensor.inputs]
    # A model that is there twice has a row for each time.
    times = [refs[: place + 1].count(ref) for place, ref in enumerate(refs)]
    models = [ref if time == 1 else f"{ref} ({time})" for ref, time in zip(refs, times, strict=True)]
    if what == WEIGHT and plan.method.weighted:
        return list(zip(models, map(float, tensor.weights), strict=True))
    knob = tensor.knobs[_argument(plan, what)]
    if isinstance(knob, tuple | list):
        return list(zip(models, map(float, knob), strict=True))
    return [(EVERY_MODEL, float(knob))]


def _argument(plan: MergePlan, knob: str) -> str:
    return next(name for name, info in plan.method.knobs.model_fields.items() if (info.alias or name) == knob)


def _varies(plan: MergePlan, what: str) -> bool:
    found: dict[str, set[float]] = {}
    for tensor in plan.tensors:
        if not tensor.copied:
            for model, value in _values(plan, tensor, what):
                found.setdefault(model, set()).add(round(value, _DIGITS))
    return any(len(values) > 1 for values in found.values())


def _before(plan: MergePlan) -> list[str]:
    """Return the tensors that stand before the first layer."""
    names: list[str] = []
    for tensor in plan.tensors:
        if _LAYER.match(tensor.name):
            return names
        names.append(tensor.name)
    return names


def _is_number(value: object) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _mean(values: Sequence[float] | None) -> float | None:
    return round(sum(values) / len(values), _DIGITS) if values else None
