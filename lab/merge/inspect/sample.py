"""Reads the same places of a tensor in several models: a bounded sample of it, or all of it in chunks.

Adapters are folded in as the merge engine does it. The places are drawn from the tensor's name, so that
the same models give the same figures every time, whatever else is read.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from lab.merge.ingredients import Ingredient
from lab.merge.inspect.kinship import measure, total
from lab.merge.inspect.report import Figures
from lab.merge.plan import Part
from lab.merge.reading import CHUNK, Reader, values_of
from lab.models.lazytorch import Tensor

BLOCK = 512
"""Neighbouring elements read together: two kilobytes of float32."""

BLOCKS = 32
"""So many blocks of a tensor are read: 16,384 elements, which tell a cosine to within 0.02."""


class Readable(Protocol):
    """One model's values of one tensor."""

    def read(self, start: int, row: Tensor) -> None:
        """Fill a row with the values from there on, as float32."""
        ...


def read_tensor(
    name: str,
    base: Ingredient,
    models: Sequence[Ingredient],
    reader: Reader,
    *,
    sample: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> Figures:
    """Read one tensor in all models and return its figures.

    Args:
        name: a tensor that all have, with the same shape.
        base: the reference.
        models: what is held against it.
        reader: maps the files.
        sample: whether to read a sample of a large tensor, else all of it.
        tick: called before each chunk; may raise to stop.
    """
    parts = [Part(one, one.tensor(name) or name) for one in (base, *models)]
    values = [values_of(part, reader) for part in parts]
    elements = parts[0].info.elements
    tallies, count = [], 0
    for places in _groups(name, elements, sample=sample):
        tick()
        rows = torch.empty(len(values), sum(size for _, size in places))
        _fill(rows, values, places)
        count += rows.shape[1]
        tallies.append(measure(rows[0], rows[1:]))
    for part in parts:
        reader.drop(part.info)
    tally = total(tallies)
    return Figures(name, elements, tally if count == elements else tally.scaled(elements / count), count)


def places_of(name: str, elements: int) -> list[tuple[int, int]]:
    """Return what is read of a tensor: starts and lengths, in order, drawn from its name.

    A small tensor is read whole. Of a large one, each of BLOCKS equal parts gives one block at random.
    """
    if elements <= BLOCK * BLOCKS:
        return [(0, elements)]
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    chance = torch.rand(BLOCKS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    part = elements / BLOCKS
    return [(int(number * part + float(draw) * (part - BLOCK)), BLOCK) for number, draw in enumerate(chance)]


def _groups(name: str, elements: int, *, sample: bool) -> Iterator[list[tuple[int, int]]]:
    if sample or not elements:
        yield places_of(name, elements)
        return
    for start in range(0, elements, CHUNK):
        yield [(start, min(CHUNK, elements - start))]


def _fill(rows: Tensor, values: Sequence[Readable], places: Sequence[tuple[int, int]]) -> None:
    for row, one in zip(rows, values, strict=True):
        at = 0
        for start, size in places:
            one.read(start, row[at : at + size])
            at += size
