"""Reads models' values in float32 chunks from mapped files, and lets go of the pages afterwards.

Knows how an adapter is folded in: W + scale * B @ A, for the rows of the chunk at hand.
"""

import mmap
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import JobFailed
from lab.merge.ingredients import Fold
from lab.merge.plan import OutputTensor, Part
from lab.merge.registry import Found
from lab.merge.rows import RelaidValues
from lab.models.headers import TensorInfo
from lab.models.weights import DTYPES

CHUNK = 1 << 18
"""Elements merged in one go: a few such rows of float32 stay in the processor's cache."""

_DROP_CHUNKS = 64  # after that many chunks, 32 MB of each 16-bit model, pages are let go of
_SAMPLED = 1 << 24  # elements that are looked over for a sample before their pages are let go of
_ROW_GAP = 1040  # keeps rows of a power of two from falling on the same lines of the cache


class Reader:
    """Maps weight files and gives views of their tensors. Threads may share one."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def flat(self, info: TensorInfo) -> Tensor:
        """Return a tensor's values as they lie in the file, in one dimension."""
        if not info.elements:
            return torch.empty(0, dtype=DTYPES[info.dtype])
        return torch.frombuffer(
            self._map(info.file), dtype=DTYPES[info.dtype], count=info.elements, offset=info.start
        )

    def expect(self, info: TensorInfo) -> None:
        """Ask the system to read a tensor ahead."""
        self._advise(info, mmap.MADV_WILLNEED)

    def drop(self, info: TensorInfo) -> None:
        """Let go of a tensor's pages, so that memory stays bounded whatever the model's size."""
        self._advise(info, mmap.MADV_DONTNEED)

    def _advise(self, info: TensorInfo, advice: int) -> None:
        start = info.start - info.start % mmap.PAGESIZE
        if info.size_bytes:
            self._map(info.file).madvise(advice, start, info.end - start)

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                with file.open("rb") as handle:
                    # Copy-on-write, because torch warns about buffers that it may not write to.
                    self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
            return self._maps[file]


class Scratch:
    """The buffers of one thread, used again for every chunk of every tensor.

    Attributes:
        rows: a row for each model. Shape (models, length), float32.
        base: the base's values at the current chunk. Shape (length,), float32.
        merged: room for the result in float32. Shape (length,).
    """

    def __init__(self, models: int) -> None:
        self._models = models
        self._make(CHUNK)

    def _make(self, length: int) -> None:
        self._length = length
        self.rows = torch.empty(self._models, length + _ROW_GAP)[:, :length]
        self.base = torch.empty(length)
        self.merged = torch.empty(length)
        self._rounded: dict[torch.dtype, Tensor] = {}

    def reserve(self, length: int) -> int:
        """Make the buffers at least so long, and return the length asked for."""
        if length > self._length:
            self._make(length)
        return length

    def rounded(self, dtype: torch.dtype) -> Tensor:
        """Return room for a chunk in the result's dtype."""
        if dtype not in self._rounded:
            self._rounded[dtype] = torch.empty(self._length, dtype=dtype)
        return self._rounded[dtype]


class Memory:
    """Keeps what was found out about values that don't change. Threads may share one."""

    def __init__(self, most: int = 1 << 14) -> None:
        self._known: dict[Hashable, Any] = {}
        self._most = most

    def recall(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """Return what is known by that key, or else what `find` finds."""
        if key not in self._known:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[key] = find()
        found: Found = self._known[key]
        return found


class TensorStack:
    """One tensor in all its models, as the chunks that merge methods read (`registry.Stack`).

    While a chunk is being used, `base` holds the base's values of the same place.

    Args:
        tensor: what is merged.
        reader: where values come from.
        scratch: the buffers to read into.
        tick: called before each chunk; may raise to stop.
        memory: keeps what is found out about the values, where they are merged often.
        is_trusted: whether the first pass needs no look for what is not finite.
    """

    def __init__(
        self,
        tensor: OutputTensor,
        reader: Reader,
        scratch: Scratch,
        tick: Callable[[], None],
        memory: "Memory | None" = None,
        *,
        is_trusted: bool = False,
    ) -> None:
        self._tensor, self._scratch, self._tick, self._memory = tensor, scratch, tick, memory
        self._reader = reader
        self._inputs = [_values_of(part, tensor, reader) for part in tensor.inputs]
        self._base = _values_of(tensor.base, tensor, reader) if tensor.base else None
        self._is_checked = is_trusted
        self.base: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor in one model."""
        return self._tensor.shape

    @property
    def models(self) -> int:
        """How many models there are, the base not counted where deltas are taken from it."""
        return len(self._inputs)

    def chunks(self, multiple: int = 1) -> Iterator[Tensor]:
        """Start a pass: deltas where there is a base, values where there is none.

        Args:
            multiple: what the elements of a chunk are a multiple of.

        Raises:
            JobFailed: a model holds a NaN or an infinity in this tensor.
        """
        total = self._tensor.elements
        step = self._scratch.reserve(max(CHUNK // multiple, 1) * multiple)
        for place, start in enumerate(range(0, total, step), 1):
            self._tick()
            size = min(step, total - start)
            rows = self._scratch.rows[: len(self._inputs), :size]
            for values, row in zip(self._inputs, rows, strict=True):
                values.read(start, row)
            self._check(self._inputs, rows)
            if self._base:
                self.base = self._scratch.base[:size]
                self._base.read(start, self.base)
                self._check([self._base], self.base[None])
                rows.sub_(self.base)
            yield rows
            if place % _DROP_CHUNKS == 0:
                self._drop()
        self._is_checked = True

    def sample(self, count: int) -> Tensor:
        """Return about `count` elements of each model, from all over the tensor: deltas or values.

        Shape (models, any), float32.
        """
        step = self._tensor.elements // count | 1  # odd: no even number of columns falls in step with it
        rows = torch.stack([self._sampled(values, step) for values in self._inputs])
        return rows.sub_(self._sampled(self._base, step)) if self._base else rows

    def _sampled(self, values: "Values | RelaidValues", step: int) -> Tensor:
        found = values.sample(step)
        self._reader.drop(values.part.info)
        return found

    def recall(self, what: Hashable, find: Callable[[], Found]) -> Found:
        """Return what `find` finds out about these values, or what the memory has of them."""
        if self._memory is None:
            return find()
        parts = (*self._tensor.inputs, self._tensor.base)
        values = tuple((part.info.file, part.info.start, part.model.ref) for part in parts if part)
        return self._memory.recall((what, self.models, values), find)

    def look(self) -> None:
        """Read everything once more, and look for what is not finite.

        Raises:
            JobFailed: a model holds a NaN or an infinity in this tensor.
        """
        self._is_checked = False
        for _ in self.chunks():
            pass

    def _drop(self) -> None:
        for values in (*self._inputs, self._base) if self._base else self._inputs:
            self._reader.drop(values.part.info)

    def _check(self, models: "Sequence[Values | RelaidValues]", rows: Tensor) -> None:
        """Refuse what is not finite, in the first pass."""
        # A sum is finite only when all numbers are; where finite ones overflow it, the exact test decides.
        if self._is_checked or isfinite(rows.sum().item()):
            return
        for values, row in zip(models, rows, strict=True):
            if not row.isfinite().all():
                raise JobFailed(
                    "not_finite",
                    f"{values.part.model.ref} holds NaN or infinite values in {values.part.tensor}. "
                    "Every weight of a merge is a finite number. The model was damaged while it was trained "
                    "or saved: choose another one.",
                )


def _values_of(part: Part, tensor: OutputTensor, reader: Reader) -> "Values | RelaidValues":
    if tensor.relayout is not None:
        return RelaidValues(part, tensor.relayout, tensor.lenders, reader)
    return Values(part, reader)


class Values:
    """One model's values of one tensor, an adapter's change included."""

    def __init__(self, part: Part, reader: Reader) -> None:
        self.part, self._reader = part, reader
        self._flat = reader.flat(part.info)
        fold = part.model.folds.get(part.tensor)
        self._fold = _Folding(fold, reader) if fold else None

    def read(self, start: int, row: Tensor) -> None:
        """Fill a row with the values from `start` on, as float32."""
        row.copy_(self._flat[start : start + len(row)])
        if self._fold:
            self._fold.add_to(row, start)

    def sample(self, step: int) -> Tensor:
        """Return every step-th element, which takes nearly every page of the file, some at a time."""
        total, window = self._flat.numel(), -(-_SAMPLED // step) * step
        picked = torch.empty(-(-total // step))
        for start in range(0, total, window):
            piece = self._flat[start : start + window : step]
            picked[start // step :][: len(piece)] = piece
            if total > window:
                self._reader.drop(self.part.info)
        return picked + self._fold.sample(step, total) if self._fold else picked


def values_of(part: Part, reader: Reader) -> Values:
    """Return one model's values of one tensor, to be read at any place, an adapter's change included."""
    return Values(part, reader)


class ChangeStack(TensorStack):
    """One matrix's changes alone, of adapters of one base: scale * B @ A, zero where one has none."""

    def __init__(
        self, tensor: OutputTensor, reader: Reader, scratch: Scratch, tick: Callable[[], None]
    ) -> None:
        super().__init__(replace(tensor, base=None), reader, scratch, tick)
        self._inputs: list[Values | RelaidValues] = [_Change(part, reader) for part in tensor.inputs]


class _Change(Values):
    """An adapter's change of one matrix, its base left out."""

    def sample(self, step: int) -> Tensor:
        total = self._flat.numel()
        return self._fold.sample(step, total) if self._fold else torch.zeros(-(-total // step))

    def read(self, start: int, row: Tensor) -> None:
        row.zero_()
        if self._fold:
            self._fold.add_to(row, start)


class _Folding:
    """The change of an adapter in one matrix, row by row."""

    def __init__(self, fold: Fold, reader: Reader) -> None:
        self._down = reader.flat(fold.down).view(fold.down.shape).float()  # (rank, columns)
        self._up = reader.flat(fold.up).view(fold.up.shape).float() * fold.scale  # (rows, rank)

    def add_to(self, row: Tensor, start: int) -> None:
        columns = self._down.shape[1]
        first, last = start // columns, -(-(start + len(row)) // columns)
        change = (self._up[first:last] @ self._down).flatten()  # whole matrix rows around the chunk
        row.add_(change[start - first * columns :][: len(row)])

    def sample(self, step: int, total: int) -> Tensor:
        """Return the change of every step-th element."""
        places = torch.arange(0, total, step)
        columns = self._down.shape[1]
        return (self._up[places // columns] * self._down.T[places % columns]).sum(1)
