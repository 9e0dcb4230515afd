"""Rows of a re-laid embedding, chunk by chunk: one selection of rows for each model that has them.

Knows which row goes where from `vocabulary.Relayout`; whole tensors are never held.
"""

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from lab.merge.plan import Part
from lab.merge.vocabulary import Relayout
from lab.models.headers import TensorInfo

_MEAN_ELEMENTS = 1 << 18  # to sum at a time for the mean row


class Maps(Protocol):
    """Gives a tensor's values as they lie in its file (`reading.Reader`)."""

    def flat(self, info: TensorInfo) -> Tensor:
        """Return them in one dimension."""
        ...


class RelaidValues:
    """One model's values of one tensor in the result's layout of rows.

    Args:
        part: the model's tensor.
        relayout: where each row comes from.
        lenders: the same tensor in the models that lend rows.
        reader: where values come from.
    """

    def __init__(self, part: Part, relayout: Relayout, lenders: Sequence[Part], reader: Maps) -> None:
        self.part = part
        self._rows, self._padding = relayout.rows, relayout.padding
        self._matrix = _Matrix(part, reader)
        self._own = torch.from_numpy(relayout.own[part.model.ref])
        self._lent = [
            (_Matrix(lender, reader), torch.from_numpy(relayout.lent[lender.model.ref])) for lender in lenders
        ]
        self._mean: Tensor | None = None

    def read(self, start: int, row: Tensor) -> None:
        """Fill a buffer with the values from one place on.

        Args:
            start: the first element's place in the re-laid tensor.
            row: overwritten. Shape (elements,), float32.
        """
        columns = self._matrix.columns
        first, last = start // columns, -(-(start + len(row)) // columns)
        values = self._between(first, min(last, self._rows))
        if last > self._rows:
            padding = self._mean_row().expand(last - max(first, self._rows), columns)
            values = torch.cat([values, padding])
        row.copy_(values.flatten()[start - first * columns :][: len(row)])

    def sample(self, step: int) -> Tensor:
        """Return every step-th element."""
        columns, rows = self._matrix.columns, self._rows + self._padding
        picked, at_a_time = [], max(1, _MEAN_ELEMENTS // columns)
        for first in range(0, rows, at_a_time):
            values = torch.empty((min(first + at_a_time, rows) - first) * columns)
            self.read(first * columns, values)
            picked.append(values[-first * columns % step :: step])
        return torch.cat(picked)

    def _between(self, first: int, last: int) -> Tensor:
        """Return the rows from first to last, in float32. Shape (rows, columns)."""
        own = self._own[first:last]
        if not len(own):
            return torch.empty(0, self._matrix.columns)
        values = self._matrix.pick(own.clamp_min(0))
        missing = (own < 0).nonzero().flatten()
        if len(missing):
            values[missing] = self._borrowed(missing + first)
        return values

    def _borrowed(self, places: Tensor) -> Tensor:
        """Return the mean of what others lend for these rows; zeros where nobody does."""
        total = torch.zeros(len(places), self._matrix.columns)
        count = torch.zeros(len(places), 1)
        for matrix, rows in self._lent:
            theirs = rows[places]
            has = (theirs >= 0).nonzero().flatten()
            if len(has):
                total.index_add_(0, has, matrix.pick(theirs[has]))
                count[has] += 1
        return total.div_(count.clamp_min_(1))

    def _mean_row(self) -> Tensor:
        if self._mean is None:
            total = torch.zeros(self._matrix.columns, dtype=torch.float64)
            step = max(1, _MEAN_ELEMENTS // self._matrix.columns)
            for first in range(0, self._rows, step):
                total += self._between(first, min(first + step, self._rows)).double().sum(0)
            self._mean = (total / max(self._rows, 1)).float()
        return self._mean


class _Matrix:
    """A tensor as rows, an adapter's change included."""

    def __init__(self, part: Part, reader: Maps) -> None:
        shape = part.info.shape
        self.columns = prod(shape[1:])
        self._values = reader.flat(part.info).view(shape[0], self.columns)
        fold = part.model.folds.get(part.tensor)
        self._down = reader.flat(fold.down).view(fold.down.shape).float() if fold else None
        self._up = reader.flat(fold.up).view(fold.up.shape).float() * fold.scale if fold else None

    def pick(self, rows: Tensor) -> Tensor:
        """Return these rows in float32. Shape (rows, columns)."""
        picked = self._values.index_select(0, rows).float()
        if self._up is not None and self._down is not None:
            picked += self._up.index_select(0, rows) @ self._down
        return picked
