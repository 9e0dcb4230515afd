"""Counts how often each small whole number comes, many at a time. Pure: tensors and numbers only."""

from lab.models.lazytorch import Tensor, torch


class Tally:
    """Counts of the numbers from 0 up to a bound.

    What comes is gathered until there are as many as counts: one count of many costs as much as one of few.

    Args:
        bins: the bound, not itself counted.
    """

    def __init__(self, bins: int) -> None:
        self._counts = torch.zeros(bins, dtype=torch.int64)
        self._waiting: list[Tensor] = []
        self._size = 0

    def add(self, numbers: Tensor) -> None:
        """Count some numbers. Shape (any,), whole."""
        self._waiting.append(numbers)
        self._size += len(numbers)
        if self._size >= len(self._counts):
            self.counts()

    def counts(self) -> Tensor:
        """Return the counts so far. Shape (bins,), int64."""
        if self._waiting:
            self._counts += torch.bincount(torch.cat(self._waiting), minlength=len(self._counts))
            self._waiting, self._size = [], 0
        return self._counts
