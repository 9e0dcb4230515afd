"""Exact selection of the k largest magnitudes, in chunks, in a pass or a few and little memory.

A sample says between which two magnitudes the k-th largest lies; one pass counts what is above and keeps
what is between, which settles it. Where that fails, for many magnitudes are equal or the sample misled,
histograms do it in two passes: magnitudes are non-negative float32 numbers, whose bit patterns sort as
they do, so the upper bits of the pattern name a bin, and a second pass over that bin finds the k-th. Of
equal magnitudes the first are kept, so that exactly k are. Pure: tensors and numbers only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab.merge.tally import Tally
from lab.models.lazytorch import Tensor, torch

_LOW = 18
_BINS = 1 << 31 - _LOW  # a float without its sign has 31 bits: 13 above, 18 below
_KEEP_ALL = -1.0

_MOST_BETWEEN = 1 << 23
"""Magnitudes that are kept between the two bounds, for each cut: 32 MiB."""

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


def sample_size(total: int) -> int:
    """Return how many elements of a tensor a sample should have.

    Sorting n of N costs about as n; what lies between its bounds, and is sorted too, are 5 N / sqrt(n) at
    most (`_bounds`). Their sum is least near n = (2.5 N)^(2/3).
    """
    return min(max(int((2.5 * total) ** (2 / 3)), 1 << 10), 1 << 18)


def largest_cuts(
    passes: Passes, counts: Sequence[int], total: int, sample: Tensor | None = None
) -> list[Cut]:
    """Find, for each row, the cut that keeps exactly its `counts` largest magnitudes.

    Args:
        passes: starts a pass over the rows' magnitudes; called three times at most. What it yields is
            overwritten.
        counts: how many to keep of each row.
        total: how many elements a row has.
        sample: magnitudes from all over each row, to save a pass. Shape (rows, any).
    """
    return [only for (only,) in several_cuts(passes, [(count,) for count in counts], total, sample)]


def several_cuts(
    passes: Passes, counts: Sequence[Sequence[int]], total: int, sample: Tensor | None = None
) -> list[list[Cut]]:
    """Find several cuts of each row in the same passes; all else is as `largest_cuts` has it.

    Args:
        passes: starts a pass over the rows' magnitudes.
        counts: for each row, how many each of its cuts keeps.
        total: how many elements a row has.
        sample: magnitudes from all over each row.
    """
    cuts = [
        [Cut(_KEEP_ALL, 0) if count >= total else Cut(float("inf"), 0) for count in row] for row in counts
    ]
    sought = {
        (row, place): count
        for row, kept in enumerate(counts)
        for place, count in enumerate(kept)
        if 0 < count < total
    }
    for (row, place), found in _find(passes, sought, total, sample).items():
        cuts[row][place] = found.cut()
    return cuts


def largest_values(
    passes: Passes, counts: Sequence[int], total: int, sample: Tensor | None = None
) -> list[float]:
    """Find the count-th largest magnitude of one row, for each of the counts, which are 1 or more."""
    found = _find(passes, {(0, place): count for place, count in enumerate(counts)}, total, sample)
    return [found[0, place].value for place in range(len(counts))]


def cut_of_nonzero(passes: Passes, share: float, total: int, sample: Tensor) -> Cut:
    """Find the cut of one row that keeps the floor(share * n) largest of its n magnitudes above zero.

    Args:
        passes: starts a pass over the row's magnitudes; called three times at most.
        share: of the magnitudes above zero, in [0, 1].
        total: how many elements the row has.
        sample: magnitudes from all over the row. Shape (any,).
    """
    ordered = np.sort(sample.numpy())
    likely = share * np.count_nonzero(ordered) / max(len(ordered), 1)
    between, above, helps = _Between(*_bounds(ordered, likely)), 0, True
    for (row,) in passes():
        magnitudes = row.numpy()
        above += int(np.count_nonzero(magnitudes > 0))
        helps = helps and between.add(magnitudes)
    count = min(int(above * share), total)
    found = between.largest(count) if helps and 0 < count < total else None
    return found.cut() if found else largest_cuts(passes, [count], total)[0]


Sought = Mapping[tuple[int, int], int]
"""How many to keep, by row and place among the row's cuts."""


@dataclass(frozen=True)
class _Found:
    """The k-th largest magnitude, how many of its equals are among the k largest, and how many there are."""

    value: float
    wanted: int
    equals: int

    def cut(self) -> Cut:
        return Cut(_just_below(self.value), 0) if self.wanted == self.equals else Cut(self.value, self.wanted)


def _find(passes: Passes, sought: Sought, total: int, sample: Tensor | None) -> dict[tuple[int, int], _Found]:
    found = _by_sample(passes, sought, total, sample) if sample is not None and sought else None
    return _by_histogram(passes, sought) if found is None and sought else found or {}


def _by_sample(
    passes: Passes, sought: Sought, total: int, sample: Tensor
) -> dict[tuple[int, int], _Found] | None:
    """Find the cuts in one pass, or return None where the sample doesn't help."""
    ordered = {row: np.sort(sample[row].numpy()) for row, _ in sought}
    between = {key: _Between(*_bounds(ordered[key[0]], count / total)) for key, count in sought.items()}
    for rows in passes():
        for (row, _), band in between.items():
            if not band.add(rows[row].numpy()):
                return None
    found = {key: between[key].largest(count) for key, count in sought.items()}
    settled = {key: one for key, one in found.items() if one is not None}
    return settled if len(settled) == len(found) else None


def _bounds(ordered: np.ndarray, share: float) -> tuple[np.float32, np.float32]:
    """Return the bounds between which the value lies that this share of the row is not below.

    Args:
        ordered: the row's sample, ascending.
        share: of the row, what the cut keeps.
    """
    size = len(ordered)
    margin = int(5 * (size * share * (1 - share)) ** 0.5) + 8
    place = size - int(share * size)
    low, high = place - margin, place + margin
    least = ordered[low] if low >= 0 else np.float32(0.0)
    return least, ordered[high] if high < size else np.float32(np.inf)


class _Between:
    """Counts the magnitudes above two bounds, and keeps those between them."""

    def __init__(self, low: np.float32, high: np.float32) -> None:
        self._low, self._high = low, high
        self._above, self._size = 0, 0
        self._kept: list[np.ndarray] = []

    def add(self, magnitudes: np.ndarray) -> bool:
        """Take a chunk; False where there are too many between the bounds."""
        above = magnitudes > self._high
        self._above += int(np.count_nonzero(above))
        places = np.flatnonzero(above ^ (magnitudes >= self._low))
        self._kept.append(magnitudes[places])
        self._size += len(places)
        return self._size <= _MOST_BETWEEN

    def largest(self, count: int) -> _Found | None:
        """Return the count-th largest magnitude, or None where it is not between the bounds."""
        wanted = count - self._above
        if not 0 < wanted <= self._size:
            return None
        kept = np.sort(np.concatenate(self._kept))  # numpy's sort is vectorised, its partition is not
        value = kept[len(kept) - wanted]
        first, end = np.searchsorted(kept, value), np.searchsorted(kept, value, side="right")
        return _Found(float(value), wanted - int(len(kept) - end), int(end - first))


def _by_histogram(passes: Passes, sought: Sought) -> dict[tuple[int, int], _Found]:
    """Find the cuts in two passes, whatever the magnitudes are."""
    open_rows = sorted({row for row, _ in sought})
    upper = {row: torch.zeros(_BINS, dtype=torch.int64) for row in open_rows}
    for rows in passes():
        for row in open_rows:
            pattern = rows[row].view(torch.int32).bitwise_right_shift_(_LOW)
            upper[row] += torch.bincount(pattern, minlength=_BINS)
    bins = {key: _bin_of(upper[key[0]], count) for key, count in sought.items()}
    lower = {(row, top): Tally(1 << _LOW) for (row, _), (top, _) in bins.items()}
    for rows in passes():
        for (row, top), tally in lower.items():
            tally.add(_inside(rows[row], top))
    found = {}
    for (row, place), (top, wanted) in bins.items():
        counts = lower[row, top].counts()
        bottom, ties = _bin_of(counts, wanted)
        found[row, place] = _Found(_magnitude(top << _LOW | bottom), ties, int(counts[bottom]))
    return found


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
