"""How several models stand to one reference, from values of the same tensor in all of them.

Sums only: a tally of one chunk plus that of the next is the tally of both, and everything that people are
told is a ratio of two sums. Pure: tensors and numbers only.

With b the reference's values, x_i a model's, and d_i = x_i - b:

    relative distance of i       |d_i| / |b|
    cosine of the task vectors   d_i . d_j / (|d_i| |d_j|)
    cosine of the weights        x_i . x_j / (|x_i| |x_j|)
    sign conflicts of i and j    the share of elements that both moved, and in opposite directions
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Self

from lab.models.lazytorch import Tensor, torch

BINS_A_DECADE = 4
DECADES = (-8, 1)
EDGES = tuple(
    10 ** (DECADES[0] + step / BINS_A_DECADE) for step in range(BINS_A_DECADE * (DECADES[1] - DECADES[0]) + 1)
)
"""Edges of the histogram of |d|. Before the first bin come those under 1e-8, zero among them; after the
last those of 10 and more."""

SMALL, LARGE = 0.005, 0.03
"""|d| within the first is what DARE at 0.9 to 0.99 was shown to bear; at the second it failed
(arXiv:2311.03099, section 4)."""


@dataclass(frozen=True)
class Tally:
    """Sums over the values of one tensor, or of many.

    Pairs are those of `pairs`: (0, 1), (0, 2), ..., (1, 2), ...

    Attributes:
        count: how many elements were looked at; a share of what there is, where it was sampled.
        base: sum b^2.
        base_broken: how many of the reference's values are NaN or infinite; those elements count nowhere.
        squares: sum x_i^2, one for each model.
        distances: sum d_i^2.
        moved: how many d_i are not zero.
        within, beyond: how many |d_i| are at most SMALL, and more than LARGE.
        largest: the largest |d_i|.
        broken: how many x_i are NaN or infinite.
        histogram: how many |d_i| lie between two EDGES, under the first and over the last.
        products: sum d_i d_j, one for each pair.
        both: how many elements both moved.
        opposed: how many of those went in opposite directions.
    """

    count: float
    base: float
    base_broken: float
    squares: tuple[float, ...]
    distances: tuple[float, ...]
    moved: tuple[float, ...]
    within: tuple[float, ...]
    beyond: tuple[float, ...]
    largest: tuple[float, ...]
    broken: tuple[float, ...]
    histogram: tuple[tuple[float, ...], ...]
    products: tuple[float, ...]
    both: tuple[float, ...]
    opposed: tuple[float, ...]

    def distance(self, model: int) -> float | None:
        """Return |d_i| / |b|; None where the reference is zero."""
        return math.sqrt(self.distances[model] / self.base) if self.base > 0 else None

    def distance_to(self, model: int) -> float | None:
        """Return |d_i| / |x_i|: the same change, measured by the model; None where the model is zero."""
        return math.sqrt(self.distances[model] / self.squares[model]) if self.squares[model] > 0 else None

    def cosine(self, pair: int) -> float | None:
        """Return the cosine of two task vectors; None where one of the two did not move."""
        one, two = pairs(len(self.squares))[pair]
        return _ratio(self.products[pair], math.sqrt(self.distances[one] * self.distances[two]))

    def weight_cosine(self, one: int, two: int) -> float | None:
        """Return the cosine of the weights of two models, -1 standing for the reference."""
        length = math.sqrt(self._square(one) * self._square(two))
        return _ratio(self._dot(one, two), length)

    def conflicts(self, pair: int) -> float | None:
        """Return the share of what both moved that went in opposite directions; None where nothing did."""
        return self.opposed[pair] / self.both[pair] if self.both[pair] else None

    def share(self, counts: Sequence[float], place: int) -> float:
        """Return one of some counts as a share of the elements."""
        return counts[place] / self.count if self.count else 0.0

    def scaled(self, factor: float) -> Self:
        """Return the same for `factor` times as many elements of the same sort."""
        told = {name: _times(value, factor) for name, value in asdict(self).items() if name != "largest"}
        return type(self)(**told, largest=self.largest)

    def _square(self, model: int) -> float:
        return self.base if model < 0 else self.squares[model]

    def _dot(self, one: int, two: int) -> float:
        """Return x_i . x_j from the sums: x = b + d, and b . d = (x^2 - b^2 - d^2) / 2."""
        if one == two:
            return self._square(one)
        towards = [
            0.0 if model < 0 else (self.squares[model] - self.base - self.distances[model]) / 2
            for model in (one, two)
        ]
        if one < 0 or two < 0:
            return self.base + sum(towards)
        pair = pairs(len(self.squares)).index((min(one, two), max(one, two)))
        return self.base + sum(towards) + self.products[pair]


def pairs(models: int) -> list[tuple[int, int]]:
    """Return every two of so many models, in the order of a tally's pairs."""
    return list(combinations(range(models), 2))


def measure(base: Tensor, rows: Tensor) -> Tally:
    """Tally values of one tensor.

    An element that is NaN or infinite anywhere is counted as broken and left out of all else.

    Args:
        base: the reference's values. Shape (elements,), float32.
        rows: the models' values at the same places. Shape (models, elements), float32.
    """
    base_bad, bad = ~base.isfinite(), ~rows.isfinite()
    broken, base_broken = _floats(bad.sum(1)), float(base_bad.sum())
    if base_broken or any(broken):
        good = ~(base_bad | bad.any(0))
        base, rows = base[good], rows[:, good]
    values, start = rows.double(), base.double()
    deltas = values - start  # (models, elements)
    sizes, signs = deltas.abs(), deltas.sign().float()
    moved = signs.abs()
    shared, agreed = moved @ moved.T, signs @ signs.T
    dots = deltas @ deltas.T
    index = pairs(len(rows))
    return Tally(
        count=float(base.numel()),
        base=float(start.square().sum()),
        base_broken=base_broken,
        squares=_floats(values.square().sum(1)),
        distances=_floats(dots.diagonal()),
        moved=_floats(moved.sum(1)),
        within=_floats((sizes <= SMALL).sum(1)),
        beyond=_floats((sizes > LARGE).sum(1)),
        largest=_floats(sizes.amax(1)) if base.numel() else (0.0,) * len(rows),
        broken=broken,
        histogram=tuple(_histogram(row) for row in sizes),
        products=tuple(float(dots[i, j]) for i, j in index),
        both=tuple(float(shared[i, j]) for i, j in index),
        opposed=tuple(float(shared[i, j] - agreed[i, j]) / 2 for i, j in index),
    )


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the tally of all elements of these.

    Raises:
        ValueError: there is none, or they are of different numbers of models.
    """
    every = list(tallies)
    if not every:
        raise ValueError("There is no tally to add.")
    if len({len(one.squares) for one in every}) > 1:
        raise ValueError("The tallies are of different numbers of models.")
    told = [asdict(one) for one in every]
    added: dict[str, Any] = {
        name: _largest([one[name] for one in told])
        if name == "largest"
        else _added([one[name] for one in told])
        for name in told[0]
    }
    return Tally(**added)


def from_json(value: Mapping[str, Any]) -> Tally:
    """Read a tally as it stands in an event: lists become tuples."""
    return Tally(**{name: _tuples(one) for name, one in value.items()})


def to_json(tally: Tally, digits: int = 7) -> dict[str, Any]:
    """Return a tally as JSON values, rounded to so many significant digits."""
    return {name: _rounded(value, digits) for name, value in asdict(tally).items()}


def _histogram(sizes: Tensor) -> tuple[float, ...]:
    edges = torch.tensor(EDGES, dtype=sizes.dtype)
    places = torch.bucketize(sizes, edges, right=True)  # 0 is under the first edge
    return _floats(torch.bincount(places, minlength=len(EDGES) + 1))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values.tolist())


def _ratio(above: float, below: float) -> float | None:
    return max(-1.0, min(1.0, above / below)) if below > 0 else None


def _added(values: Sequence[Any]) -> Any:
    """Add numbers, or tuples of numbers place by place."""
    if isinstance(values[0], float | int):
        return math.fsum(values)
    return tuple(_added(place) for place in zip(*values, strict=True))


def _largest(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(max(place) for place in zip(*values, strict=True))


def _times(value: Any, factor: float) -> Any:
    return value * factor if isinstance(value, float | int) else tuple(_times(one, factor) for one in value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else float(value)


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float | int):
        return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.{digits}g}")
    return [_rounded(one, digits) for one in value]
