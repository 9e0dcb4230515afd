"""What a GGUF file says of itself, believed only after every claim is checked.

Reads the header and no weight; knows no torch. The format (versions 2 and 3, little endian): magic,
version, two counts, settings, tensor entries, then the data, every tensor at a multiple of the alignment.
"""

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from lab.core.errors import BadInput

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SETTINGS_LIMIT = 1 << 16
TENSORS_LIMIT = 1 << 17
TEXT_LIMIT = 1 << 24
"""The longest text, in bytes: a chat template is one."""
ITEMS_LIMIT = 1 << 22
"""The longest list: a vocabulary is one."""
HEADER_LIMIT = 1 << 26
SIDE_LIMIT = 1 << 40

_SCALARS = {
    0: ("<B", 1), 1: ("<b", 1), 2: ("<H", 2), 3: ("<h", 2), 4: ("<I", 4), 5: ("<i", 4),
    6: ("<f", 4), 7: ("<?", 1), 10: ("<Q", 8), 11: ("<q", 8), 12: ("<d", 8),
}  # fmt: skip
_TEXT, _LIST = 8, 9
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")

Value = bool | int | float | str | tuple[Any, ...]


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        type: the number of its quantisation; `quantisation` has the name.
        quantisation: how its numbers are kept: "F32", "Q4_1".
        shape: rows first, as in torch.
        start, end: its bytes in the file, counted from the start of the file.
        block: how many numbers are kept together, in how many bytes.
    """

    type: int
    quantisation: str
    shape: tuple[int, ...]
    start: int
    end: int
    block: tuple[int, int]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[-1] // self.block[0] * self.block[1]


@dataclass(frozen=True)
class GgufHeader:
    """What a checked file holds: its settings by key, and its tensors by name in the file's order."""

    file: Path
    settings: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]


def refuse_gguf(file: Path, why: str, do: str = "Copy or download the file again.") -> NoReturn:
    """Refuse a GGUF file, naming file and reason.

    Raises:
        BadInput: always.
    """
    raise BadInput(f"{file.name}: {why}.", "A GGUF file has a complete, truthful header.", do)


def read_gguf_header(path: Path) -> GgufHeader:
    """Return what a GGUF file holds.

    Raises:
        BadInput: the file is no GGUF file, its header doesn't tell the truth, or a quantisation is unknown.
    """
    try:
        with path.open("rb") as file:
            return _Walk(path, file).header()
    except OSError as error:
        refuse_gguf(path, f"it can't be read ({error.strerror})")


class _Walk:
    """Reads a header from start to end, and never more than the file has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0

    def header(self) -> GgufHeader:
        if self._size < 24 or self._take(4) != MAGIC:
            refuse_gguf(self._path, "it doesn't begin with GGUF", "Choose a GGUF file, or a model's folder.")
        version = self._number("<I", 4)
        if version not in VERSIONS:
            refuse_gguf(
                self._path, f"its version is {version}; read are 2 and 3, little endian", "Convert it anew."
            )
        tensors = self._count("tensors", TENSORS_LIMIT)
        settings = self._count("settings", SETTINGS_LIMIT)
        table: dict[str, Value] = {}
        for _ in range(settings):
            key = self._text(1 << 16)
            if key in table:
                refuse_gguf(self._path, f"it has the setting {key[:80]!r} twice")
            table[key] = self._value(self._number("<I", 4), 0)
        entries = self._entries(tensors)
        return GgufHeader(self._path, table, self._placed(entries, self._alignment(table)))

    def _take(self, count: int) -> bytes:
        """Read some bytes of the header; the claim is checked before anything is read."""
        if count > self._size - self._at:
            refuse_gguf(
                self._path, f"its header wants {count:,} bytes where {self._size - self._at:,} are left"
            )
        if self._at + count > HEADER_LIMIT:
            refuse_gguf(self._path, f"its header has more than {HEADER_LIMIT:,} bytes")
        self._at += count
        return self._file.read(count)

    def _number(self, form: str, width: int) -> Any:
        [number] = struct.unpack(form, self._take(width))
        return number

    def _count(self, what: str, most: int) -> int:
        count: int = self._number("<Q", 8)
        if count > most:
            refuse_gguf(self._path, f"it claims {count:,} {what}; at most {most:,} are read")
        return count

    def _text(self, most: int) -> str:
        length: int = self._number("<Q", 8)
        if length > most:
            refuse_gguf(self._path, f"it claims a text of {length:,} bytes; at most {most:,} are read")
        # Tokens of byte vocabularies need not be UTF-8 by themselves.
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> Value:
        if kind == _TEXT:
            return self._text(TEXT_LIMIT)
        if kind == _LIST:
            return self._list(depth)
        if kind not in _SCALARS:
            refuse_gguf(self._path, f"it has a setting of the unknown type {kind}")
        value: Value = self._number(*_SCALARS[kind])
        return value

    def _list(self, depth: int) -> Value:
        if depth:
            refuse_gguf(self._path, "it has a list within a list")
        kind, count = self._number("<I", 4), self._count("items in a list", ITEMS_LIMIT)
        if kind in _SCALARS:
            form, width = _SCALARS[kind]
            return struct.unpack(f"<{count}{form[1]}", self._take(count * width))
        return tuple(self._value(kind, depth + 1) for _ in range(count))

    def _alignment(self, settings: Mapping[str, Value]) -> int:
        alignment = settings.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            refuse_gguf(
                self._path, f"its alignment is {str(alignment)[:20]}, which is no power of two from 8 on"
            )
        return alignment

    def _entries(self, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
        """Read shape, type and offset of every tensor."""
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self._text(1 << 10)
            if not _TENSOR_NAME.fullmatch(name):
                refuse_gguf(self._path, f"it has a tensor named {name[:80]!r}")
            if name in entries:
                refuse_gguf(self._path, f"it has the tensor {name} twice")
            sides = self._number("<I", 4)
            if not 1 <= sides <= 4:
                refuse_gguf(self._path, f"the tensor {name} has {sides} sides; it is 1 to 4")
            shape = tuple(self._number("<Q", 8) for _ in range(sides))
            if not all(0 < side <= SIDE_LIMIT for side in shape) or prod(shape) > 1 << 48:
                refuse_gguf(self._path, f"the tensor {name} has the shape {str(shape)[:80]}")
            entries[name] = (shape[::-1], self._number("<I", 4), self._number("<Q", 8))
        if not entries:
            refuse_gguf(self._path, "it holds no tensor")
        return entries

    def _placed(
        self, entries: Mapping[str, tuple[tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, GgufTensor]:
        """Check that every tensor lies in the file, aligned, and over no other."""
        begin = -(-self._at // alignment) * alignment
        placed: dict[str, GgufTensor] = {}
        for name, (shape, kind, offset) in entries.items():
            quantisation, block = quantisation_of(kind)
            if not quantisation:
                refuse_gguf(
                    self._path, f"the tensor {name} is kept as type {kind}, which can't be read back", _OTHER
                )
            if shape[-1] % block[0]:
                refuse_gguf(self._path, f"the rows of {name} are no multiple of {block[0]} numbers")
            if offset % alignment:
                refuse_gguf(self._path, f"the data of {name} is not aligned to {alignment} bytes")
            start, size = begin + offset, prod(shape) // block[0] * block[1]
            if start + size > self._size:
                refuse_gguf(
                    self._path,
                    f"the data of {name} ends beyond the file's {self._size:,} bytes: it is cut off",
                )
            placed[name] = GgufTensor(kind, quantisation, shape, start, start + size, block)
        at, before = begin, ""
        for name, tensor in sorted(placed.items(), key=lambda item: item[1].start):
            if tensor.start < at:
                refuse_gguf(self._path, f"the data of {name} overlaps that of {before}")
            at, before = tensor.end, name
        return placed


_OTHER = "Choose a file in another quantisation, such as Q8_0 or Q4_K_M."


def quantisation_of(kind: int) -> tuple[str, tuple[int, int]]:
    """Return the name of a tensor type, its numbers and bytes in a block; "" where it can't be read back."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import _type_traits  # the package has no public list of what it reads back

    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        return "", (1, 1)
    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    if known not in plain and known not in _type_traits:
        return "", (1, 1)
    numbers, size = GGML_QUANT_SIZES[known]
    return known.name, (int(numbers), int(size))
