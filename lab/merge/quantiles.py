"""Exact order statistics of many float32 numbers by counting bit patterns, in two passes and little memory.

A number's pattern, with the bits of negative ones turned round, sorts as the number does. The first pass
counts the upper 14 bits of it, the second the lower 18 within one bin. Counts of several tensors may be
added up, so that the ranks are those of a whole model. Pure: tensors and numbers only.
"""

from lab.merge.tally import Tally
from lab.models.lazytorch import Tensor, torch

_LOW = 18
BINS = 1 << 32 - _LOW
FINE_BINS = 1 << _LOW


def coarse_counts(values: Tensor) -> Tensor:
    """Count the upper bits of numbers.

    Args:
        values: any shape, float32, no NaN.

    Returns:
        Shape (BINS,), int64.
    """
    upper = _keys(values).bitwise_right_shift_(_LOW).add_(BINS // 2)
    return torch.bincount(upper, minlength=BINS)


class FineCounts:
    """Counts the lower bits of those numbers whose upper bits are bin `place`, many chunks together."""

    def __init__(self, place: int) -> None:
        self._start = place - BINS // 2 << _LOW
        self._tally = Tally(FINE_BINS)

    def add(self, values: Tensor) -> None:
        """Count some numbers."""
        offsets = _keys(values).sub_(self._start)
        self._tally.add(offsets[(offsets >= 0) & (offsets < FINE_BINS)])

    def counts(self) -> Tensor:
        """Return the counts so far. Shape (FINE_BINS,), int64."""
        return self._tally.counts()


def find(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the bin of the number with this rank, counted from 0 upwards, and its rank within the bin."""
    up_to = counts.cumsum(0)
    place = int(torch.searchsorted(up_to, rank, right=True))
    return place, rank - (int(up_to[place - 1]) if place else 0)


def number_at(place: int, fine_place: int) -> float:
    """Return the number whose pattern lies in these two bins."""
    key = (place - BINS // 2 << _LOW) + fine_place
    pattern = key if key >= 0 else key ^ 0x7FFFFFFF
    return torch.tensor(pattern, dtype=torch.int32).view(torch.float32).item()


def _keys(values: Tensor) -> Tensor:
    """Return int64 numbers that sort as the values do; zero is one number whatever its sign."""
    patterns = (values.flatten() + 0.0).view(torch.int32)
    return (patterns ^ (patterns >> 31).bitwise_and_(0x7FFFFFFF)).long()
