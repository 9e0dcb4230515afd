"""Weights of a model folder, checked, and read without copying: views of memory-mapped files.

Knows torch and the files; knows no architecture and no transformers.
"""

import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lab.core.errors import BadInput
from lab.models.headers import TensorInfo, read_header, read_headers

__all__ = [
    "DTYPES",
    "TensorInfo",
    "Weights",
    "check_finite",
    "first_bad_tensor",
    "open_weights",
    "read_header",
    "read_headers",
]

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
"""torch's dtypes by the format's words."""

SCAN_ELEMENTS = 1 << 22
"""How many numbers the scan for NaN looks at in one go."""


class Weights:
    """The tensors of one model folder. Close it, or use it in a `with`.

    Args:
        tensors: where each tensor lies, already checked.
    """

    def __init__(self, tensors: dict[str, TensorInfo]) -> None:
        self._tensors = tensors
        self._maps: dict[Path, mmap.mmap] = {}

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order of the files."""
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Return where one tensor lies.

        Raises:
            BadInput: there is no such tensor.
        """
        try:
            return self._tensors[name]
        except KeyError:
            raise BadInput(f"There is no tensor {name!r} in these weights.") from None

    def view(self, name: str) -> Tensor:
        """Return one tensor as a view of the mapped file: nothing is read until it is used.

        Writing to it changes a private copy of the page, never the file.
        """
        info = self.info(name)
        dtype = DTYPES[info.dtype]
        if info.size_bytes == 0:
            return torch.empty(info.shape, dtype=dtype)
        flat = torch.frombuffer(self._map(info.file), dtype=dtype, count=info.elements, offset=info.start)
        return flat.view(info.shape)

    def close(self) -> None:
        """Let go of the maps; a view that is still held keeps its own alive."""
        # Never mmap.close(): torch.frombuffer keeps the map but not the buffer, so Python would
        # unmap pages that a tensor still reads.
        self._maps.clear()

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as handle:
                # Copy-on-write, because torch warns about buffers that it may not write to.
                self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[file]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_weights(folder: Path) -> Weights:
    """Check the headers of all weight files in a folder and open them.

    Raises:
        BadInput: there are no safetensors, or a file doesn't tell the truth; names file, tensor, reason.
    """
    return Weights(read_headers(folder))


def first_bad_tensor(
    weights: Weights, names: Iterable[str] | None = None, breathe: Callable[[], None] = lambda: None
) -> str | None:
    """Return the first tensor that holds a NaN or an infinity, or None. Reads every weight once.

    Args:
        weights: what to look at.
        names: the tensors to look at; all when None.
        breathe: called between chunks of about 4 million numbers.
    """
    for name in weights.names() if names is None else names:
        flat = weights.view(name).reshape(-1)
        if not flat.is_floating_point():
            continue
        for chunk in flat.split(SCAN_ELEMENTS):
            if not _is_finite(chunk):
                return name
            breathe()
    return None


def check_finite(weights: Weights, breathe: Callable[[], None] = lambda: None) -> None:
    """Refuse weights with a NaN or an infinity among them.

    Raises:
        BadInput: names the file and the first such tensor.
    """
    bad = first_bad_tensor(weights, breathe=breathe)
    if bad is not None:
        raise BadInput(
            f"{weights.info(bad).file.name}, tensor {bad!r}: it holds NaN or infinite values.",
            "Every weight is a finite number.",
            "The model was damaged while it was trained or saved: use an earlier checkpoint.",
        )


def _is_finite(chunk: Tensor) -> bool:
    if chunk.element_size() == 1:  # float8 has no sum
        return bool(chunk.float().isfinite().all())
    # A sum is one pass without a mask as large as the chunk. It is finite only when all numbers are;
    # where finite numbers overflow it, the exact test decides.
    total = chunk.sum(dtype=torch.float64 if chunk.dtype == torch.float64 else torch.float32)
    return bool(total.isfinite()) or bool(chunk.isfinite().all())
