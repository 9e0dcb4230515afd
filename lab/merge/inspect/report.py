"""What a look into models found: figures of every tensor, added up by layer, by module, or over all. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from lab.merge.inspect.kinship import Tally, from_json, to_json, total
from lab.merge.inspect.places import Place, place_of

Purpose = Literal["before", "after"]


@dataclass(frozen=True)
class Figures:
    """One tensor's figures.

    Attributes:
        name: the tensor.
        elements: how many numbers it has.
        tally: of what was read of it, scaled to all of it.
        read: how many numbers were read.
    """

    name: str
    elements: int
    tally: Tally
    read: int

    @property
    def place(self) -> Place:
        """Where it stands in its model."""
        return place_of(self.name)

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "name": self.name, "elements": self.elements, "read": self.read, "tally": to_json(self.tally),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `as_json` returned."""
        return cls(value["name"], int(value["elements"]), from_json(value["tally"]), int(value["read"]))


@dataclass(frozen=True)
class Report:
    """All figures of one look.

    Attributes:
        base: the reference.
        models: what was held against it, in the order of every tally.
        figures: of every tensor, in the reference's order.
        purpose: "before" a merge, or "after" it: then the reference is the result, the models its parents.
        left_out: tensors that not all models have in the same shape.
    """

    base: str
    models: tuple[str, ...]
    figures: Sequence[Figures]
    purpose: Purpose = "before"
    left_out: Sequence[str] = field(default=())

    @cached_property
    def whole(self) -> Tally:
        """The tally of all tensors."""
        return total(one.tally for one in self.figures)

    @cached_property
    def layers(self) -> Mapping[int, Tally]:
        """The tally of each layer, in order."""
        inside = [one for one in self.figures if one.place.layer is not None]
        return dict(sorted(_grouped(inside, lambda place: place.layer or 0).items()))

    @cached_property
    def cells(self) -> Mapping[Place, Tally]:
        """The tally of each module of each layer, and of what stands outside layers."""
        return _grouped(self.figures, lambda place: place)

    @cached_property
    def kinds(self) -> Mapping[str, Tally]:
        """The tally of each kind of module, over all layers, in the model's order."""
        return _grouped(self.figures, lambda place: place.kind)

    def at(self, place: Place) -> list[Figures]:
        """Return the figures of the tensors that stand there."""
        return [one for one in self.figures if one.place == place]

    @property
    def is_sampled(self) -> bool:
        """Whether not every weight was read."""
        return any(one.read < one.elements for one in self.figures)

    @property
    def read(self) -> int:
        """How many numbers of each model were read."""
        return sum(one.read for one in self.figures)

    @property
    def elements(self) -> int:
        """How many numbers the tensors have, of one model."""
        return sum(one.elements for one in self.figures)


def _grouped(figures: Iterable[Figures], key: Callable[[Place], Any]) -> dict[Any, Tally]:
    groups: dict[Any, list[Tally]] = {}
    for one in figures:
        groups.setdefault(key(one.place), []).append(one.tally)
    return {name: total(tallies) for name, tallies in groups.items()}
