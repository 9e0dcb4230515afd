"""Exact selection of the k largest magnitudes, in chunks, in a few passes and little memory.

Magnitudes are non-negative float32 numbers, whose bit patterns sort as they do. A histogram of the
upper bits of the pattern finds the bin of the k-th largest; a second pass over that bin finds it. Of
equal magnitudes the first are kept, so that exactly k are. Pure: tensors and numbers only.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lab.models.lazytorch import Tensor, torch

_LOW = 18
_BINS = 1 << 31 - _LOW  # a float without its sign has 31 bits: 13 above, 18 below
_ENOUGH = 1 << 18  # magnitudes to count at a time in the fine histogram, which is as long
_KEEP_ALL = -1.0

Passes = Callable[[], Iterable[Tensor | Sequence[Tensor]]]
"""A new pass over rows of magnitudes: a sequence of 1-D float32 tensors, one for each row, in each chunk."""


def keep_largest(values: Tensor, count: int) -> Tensor:
    """Return the values with all but the `count` largest magnitudes set to zero.

    Of equal magnitudes the first are kept. This is the plain form, of a whole tensor, by sorting.

    Args:
        values: any shape.
        count: how many to keep, from 0 to all.
    """
    order = values.flatten().abs().sort(descending=True, stable=True).indices[:count]
    kept = torch.zeros_like(values).flatten()
    kept[order] = values.flatten()[order]
    return kept.view_as(values)


@dataclass
class Cut:
    """What separates the k largest from the rest: a magnitude, and how many equal to it still pass.

    Chunks have to be shown to `trim` in order, once each. A copy starts over.
    """

    value: float
    ties: int

    def copy(self) -> "Cut":
        """Return the cut as it stands, to be used up apart from this one."""
        return Cut(self.value, self.ties)

    def trim(self, row: Tensor) -> Tensor:
        """Set what is below the cut to zero, in place, and return the row.

        Args:
            row: the next chunk of the values. Shape (elements,), float32.
        """
        if self.value == _KEEP_ALL:
            return row
        if self.ties == 0:
            return _shrink(row, self.value)
        magnitudes = row.abs().numpy()
        equal = magnitudes == np.float32(self.value)
        found = int(np.count_nonzero(equal))
        if found > self.ties:
            late = np.flatnonzero(equal)[self.ties :]
            row[torch.from_numpy(late)] = 0.0
        self.ties = max(0, self.ties - found)
        return _shrink(row, _just_below(self.value))


def largest_cuts(passes: Passes, counts: Sequence[int], total: int) -> list[Cut]:
    """Find, for each row, the cut that keeps exactly its `counts` largest magnitudes.

    Args:
        passes: starts a pass over the rows' magnitudes; called twice at most. What it yields is
            overwritten.
        counts: how many to keep of each row.
        total: how many elements a row has.
    """
    return [only for (only,) in several_cuts(passes, [(count,) for count in counts], total)]


def several_cuts(passes: Passes, counts: Sequence[Sequence[int]], total: int) -> list[list[Cut]]:
    """Find several cuts of each row in the same passes; all else is as `largest_cuts` has it.

    Args:
        passes: starts a pass over the rows' magnitudes; called twice at most.
        counts: for each row, how many each of its cuts keeps.
        total: how many elements a row has.
    """
    cuts = [
        [Cut(_KEEP_ALL, 0) if count >= total else Cut(float("inf"), 0) for count in row] for row in counts
    ]
    sought = [
        (row, place)
        for row, kept in enumerate(counts)
        for place, count in enumerate(kept)
        if 0 < count < total
    ]
    for (row, place), cut in _find(passes, counts, sought).items() if sought else ():
        cuts[row][place] = cut
    return cuts


def largest_values(passes: Passes, counts: Sequence[int]) -> list[float]:
    """Find the count-th largest magnitude of one row, for each of the counts, which are 1 or more."""
    found = _find(passes, [counts], [(0, place) for place in range(len(counts))])
    return [found[0, place].value for place in range(len(counts))]


def _find(
    passes: Passes, counts: Sequence[Sequence[int]], sought: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Cut]:
    """Find the cuts that are sought, by row and place among the row's counts, in two passes."""
    open_rows = sorted({row for row, _ in sought})
    upper = {row: torch.zeros(_BINS, dtype=torch.int64) for row in open_rows}
    for rows in passes():
        for row in open_rows:
            pattern = rows[row].view(torch.int32).bitwise_right_shift_(_LOW)
            upper[row] += torch.bincount(pattern, minlength=_BINS)
    bins = {(row, place): _bin_of(upper[row], counts[row][place]) for row, place in sought}
    lower = {(row, top): _Tally() for (row, _), (top, _) in bins.items()}
    for rows in passes():
        for (row, top), tally in lower.items():
            tally.add(_inside(rows[row], top))
    found = {}
    for (row, place), (top, wanted) in bins.items():
        bottom, ties = _bin_of(lower[row, top].counts(), wanted)
        found[row, place] = Cut(_magnitude(top << _LOW | bottom), ties)
    return found


class _Tally:
    """Counts the lower bits of patterns, many at a time."""

    def __init__(self) -> None:
        self._counts = torch.zeros(1 << _LOW, dtype=torch.int64)
        self._waiting: list[Tensor] = []
        self._size = 0

    def add(self, lower: Tensor) -> None:
        self._waiting.append(lower)
        self._size += len(lower)
        if self._size >= _ENOUGH:
            self.counts()

    def counts(self) -> Tensor:
        if self._waiting:
            self._counts += torch.bincount(torch.cat(self._waiting), minlength=1 << _LOW)
            self._waiting, self._size = [], 0
        return self._counts


def _inside(magnitudes: Tensor, upper: int) -> Tensor:
    """Return the lower bits of the patterns whose upper bits are `upper`."""
    offsets = magnitudes.view(torch.int32).sub(upper << _LOW).numpy()
    # numpy compares and picks several times faster than torch does; below the bin is far above, unsigned.
    return torch.from_numpy(offsets[offsets.view(np.uint32) < 1 << _LOW])


def _bin_of(histogram: Tensor, count: int) -> tuple[int, int]:
    """Return the bin of the count-th largest, and how many of that bin belong to the largest."""
    above = histogram.flip(0).cumsum(0)  # above[i]: how many lie in the topmost i + 1 bins
    place = int(torch.searchsorted(above, count))
    before = int(above[place - 1]) if place else 0
    return len(histogram) - 1 - place, count - before


def _magnitude(pattern: int) -> float:
    return torch.tensor(pattern, dtype=torch.int32).view(torch.float32).item()


def _just_below(value: float) -> float:
    """Return the next smaller float32; of zero, the mark for keeping all."""
    if value == 0.0:
        return _KEEP_ALL
    return torch.nextafter(torch.tensor(value), torch.tensor(0.0)).item()


def _shrink(row: Tensor, bound: float) -> Tensor:
    """Set values with magnitude up to the bound to zero, in place; a negative bound keeps all."""
    if bound < 0:
        return row
    return torch.ops.aten.hardshrink.out(row, bound, out=row)
