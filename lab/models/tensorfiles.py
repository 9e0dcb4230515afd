"""Writes tensors one after the other into safetensors files, whose headers are known before the first byte.

Memory is the piece at hand. A file is NAME.part until it is whole; one that is whole is not written again.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lab.core.files import sync
from lab.models.headers import INDEX_FILE, WEIGHT_FILES

FILE_BYTES = 2_000_000_000
Shape = tuple[int, ...]


def write_tensors(
    folder: Path,
    shapes: Mapping[str, Shape],
    pieces: Callable[[str], Iterable[Tensor]],
    *,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write tensors of bfloat16 into a folder, and the index where it takes several files.

    Args:
        folder: where to.
        shapes: every tensor's shape, in the order of the files.
        pieces: returns one tensor's values in order, in pieces of any size, as bfloat16.
        file_bytes: the most bytes of data in one file, unless one tensor has more.

    Raises:
        ValueError: the pieces of a tensor are not as many numbers as its shape says.
    """
    groups = list(_groups(shapes, file_bytes))
    for number, group in enumerate(groups, 1):
        name = WEIGHT_FILES[0] if len(groups) == 1 else _shard(number, len(groups))
        if not (folder / name).is_file():
            _write_file(folder / name, {tensor: shapes[tensor] for tensor in group}, pieces)
    if len(groups) > 1:
        weight_map = {
            tensor: _shard(number, len(groups)) for number, group in enumerate(groups, 1) for tensor in group
        }
        index = {"metadata": {"total_size": sum(map(_size, shapes.values()))}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_file(final: Path, shapes: Mapping[str, Shape], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    part = final.with_name(f"{final.name}.part")
    with part.open("wb") as file:
        file.write(_header(shapes))
        for name, shape in shapes.items():
            written = 0
            for piece in pieces(name):
                written += file.write(piece.contiguous().view(torch.uint8).numpy().data)
            if written != _size(shape):
                raise ValueError(f"{name}: {written} bytes instead of {_size(shape)}")
        file.flush()
        os.fsync(file.fileno())
    part.rename(final)
    sync(final.parent)


def _groups(shapes: Mapping[str, Shape], limit: int) -> Iterator[Sequence[str]]:
    group: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if group and size + _size(shape) > limit:
            yield group
            group, size = [], 0
        group.append(name)
        size += _size(shape)
    yield group


def _header(shapes: Mapping[str, Shape]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + _size(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _size(shape: Shape) -> int:
    return 2 * prod(shape)


def _shard(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors"
