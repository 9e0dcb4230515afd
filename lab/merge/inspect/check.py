"""What is checked before models are looked into: that they are there and have tensors in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.merge.ingredients import Ingredient, read_ingredient
from lab.merge.inspect.places import shared_tensors
from lab.merge.inspect.spec import InspectSpec

SECONDS_A_TENSOR = 0.002
NANOSECONDS_AN_ELEMENT = 30.0
"""For each model, measured on one core."""

START_SECONDS = 1.0


@dataclass(frozen=True)
class Inspection:
    """What will be read.

    Attributes:
        base: the reference.
        models: what is held against it.
        tensors: names of the tensors that all have, in the reference's order.
        left_out: names of those that only some have, or with other shapes.
        seconds: about how long it takes.
    """

    base: Ingredient
    models: Sequence[Ingredient]
    tensors: Sequence[str]
    left_out: Sequence[str]
    seconds: float


def check(spec: InspectSpec, shelf: Shelf) -> Inspection:
    """Read headers and configs, and say what can be compared.

    Raises:
        BadInput: a model is not there or can't be read, or has no tensor in common with the reference.
    """
    found = {ref: _read(ref, spec, shelf) for ref in spec.models_used()}
    base, models = found[spec.base], [found[ref] for ref in spec.models]
    tensors, left_out = shared_tensors(base, models)
    if not tensors:
        raise BadInput(
            f"{spec.base} and {', '.join(spec.models)} have no tensor of the same name and shape.",
            "Models of one family and size are compared weight by weight.",
            "Choose fine-tunes of the same base.",
            field="models",
        )
    return Inspection(base, models, tensors, left_out, _seconds(spec, found, tensors))


def _read(ref: str, spec: InspectSpec, shelf: Shelf) -> Ingredient:
    try:
        return read_ingredient(ref, shelf)
    except BadInput as error:
        raise error.at("base" if ref == spec.base else f"models.{spec.models.index(ref)}") from error


def _seconds(spec: InspectSpec, found: Mapping[str, Ingredient], tensors: Sequence[str]) -> float:
    models = len(found)
    if not spec.exact:
        return START_SECONDS + SECONDS_A_TENSOR * models * len(tensors)
    elements = sum(found[spec.base].tensors[name].elements for name in tensors)
    return START_SECONDS + NANOSECONDS_AN_ELEMENT * 1e-9 * models * elements
