"""What a safetensors file says of itself, believed only after every claim is checked.

Reads the header and no weight; knows no torch. The format: 8 bytes of header length (little endian),
the header as JSON, then the data of all tensors, back to back, without holes.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lab.core.errors import BadInput
from lab.core.spec import strict_json

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Bytes of one number, for every dtype that we read."""

HEADER_LIMIT = 100_000_000
"""The longest header that the format allows, in bytes."""

TENSOR_BYTES_LIMIT = 1 << 48
"""No tensor is larger; keeps products of hostile shapes far from any overflow."""

WEIGHT_FILES = ("model.safetensors", "adapter_model.safetensors")
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack")

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
_TENSOR_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,512}")


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        dtype: in the format's words: "F32", "BF16".
        shape: its sizes; () is a scalar.
        file: the file that holds it.
        start, end: its bytes in the file, counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def refuse(file: Path, why: str, tensor: str | None = None) -> NoReturn:
    """Refuse a weight file, naming file, tensor and reason.

    Raises:
        BadInput: always.
    """
    what = f"{file.name}, tensor {tensor!r}: {why}." if tensor is not None else f"{file.name}: {why}."
    raise BadInput(
        what,
        "A safetensors file has a complete, truthful header.",
        "Copy or download the file again, or save the model anew with safe_serialization.",
    )


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return what one safetensors file holds, by tensor name, in the file's order.

    Raises:
        BadInput: the file is no safetensors file, or its header doesn't tell the truth.
    """
    header, begin, size = _header_of(path)
    _check_metadata(path, header.pop("__metadata__", {}))
    if not header:
        refuse(path, "it holds no tensor")
    tensors = {name: _tensor(path, name, entry, begin) for name, entry in header.items()}
    _check_layout(path, tensors, begin, size)
    return dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Return what all weight files of a model or adapter folder hold, by tensor name.

    `model.safetensors` comes first, then the index of a sharded model, then an adapter's file.

    Raises:
        BadInput: there are no safetensors, or a file or the index doesn't tell the truth.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder} is {'a file' if folder.exists() else 'not there'}.",
            "A model is a folder in Hugging Face layout.",
            "Give the folder that holds config.json and the safetensors files.",
        )
    if (folder / WEIGHT_FILES[0]).is_file():
        return read_header(folder / WEIGHT_FILES[0])
    if (folder / INDEX_FILE).is_file():
        return _read_shards(folder)
    if (folder / WEIGHT_FILES[1]).is_file():
        return read_header(folder / WEIGHT_FILES[1])
    raise _no_weights(folder)


def _no_weights(folder: Path) -> BadInput:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        return BadInput(
            f"{folder.name} holds its weights as {', '.join(pickles[:3])}, which can run code when opened.",
            "The lab reads safetensors only.",
            "Save the model again with model.save_pretrained(folder) and import that.",
        )
    return BadInput(
        f"{folder.name} holds no model.safetensors and no {INDEX_FILE}.",
        "A model folder has config.json, tokenizer files and safetensors.",
        "Give the folder that holds these files.",
    )


def _header_of(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the parsed header, where the data begins, and the file's size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                refuse(path, "it is empty" if size == 0 else f"it has {size} bytes, too few for a header")
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT:
                refuse(path, f"it claims a header of {length:,} bytes; the format allows {HEADER_LIMIT:,}")
            if length > size - 8:
                refuse(
                    path, f"its header should have {length:,} bytes but {size - 8:,} are left; it is cut off"
                )
            raw = file.read(length)
    except OSError as error:
        refuse(path, f"it can't be read ({error.strerror})")
    return _parse(path, raw), 8 + length, size


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = strict_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        refuse(path, "its header is not UTF-8 text")
    except ValueError as error:
        refuse(path, f"its header is not JSON as the standard has it ({str(error)[:120]})")
    if not isinstance(header, dict):
        refuse(path, "its header is not a JSON object")
    return header


def _tensor(path: Path, name: str, entry: Any, begin: int) -> TensorInfo:
    if not _TENSOR_NAME.fullmatch(name) or ".." in name:
        refuse(path, "its name has characters of a path", name[:80])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse(path, "its entry needs dtype, shape and data_offsets, and nothing else", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(path, f"its dtype is {str(dtype)[:40]!r}; known are {', '.join(ITEM_BYTES)}", name)
    if not _are_counts(shape) or len(shape) > 16:
        refuse(path, f"its shape {str(shape)[:80]} is not a list of up to 16 sizes, none negative", name)
    if math.prod(max(size, 1) for size in shape) * ITEM_BYTES[dtype] > TENSOR_BYTES_LIMIT:
        refuse(path, f"its shape {shape} is too large for any file", name)
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(path, f"its data_offsets {str(offsets)[:80]} are not [begin, end], 0 <= begin <= end", name)
    need, have = math.prod(shape) * ITEM_BYTES[dtype], offsets[1] - offsets[0]
    if have != need:
        refuse(path, f"shape {shape} in {dtype} takes {need:,} bytes but its data has {have:,}", name)
    return TensorInfo(dtype, tuple(shape), path, begin + offsets[0], begin + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_metadata(path: Path, metadata: Any) -> None:
    is_text = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not is_text:
        refuse(path, "its __metadata__ is not a table of texts")


def _check_layout(path: Path, tensors: dict[str, TensorInfo], begin: int, size: int) -> None:
    """Check that the tensors fill the data exactly: no overlap, no hole, nothing after them."""
    at = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start < at:
            refuse(path, f"its data overlaps the tensor before it by {at - tensor.start:,} bytes", name)
        if tensor.start > at:
            refuse(path, f"there is a hole of {tensor.start - at:,} bytes before its data", name)
        if tensor.end > size:
            refuse(path, f"its data ends at byte {tensor.end:,} of {size:,}; the file is cut off", name)
        at = tensor.end
    if at < size:
        refuse(path, f"{size - at:,} bytes follow the last tensor")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    """Read every shard that the index names; index and shards must agree in both directions."""
    index = folder / INDEX_FILE
    weight_map = _weight_map(index)
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            refuse(index, f"it names the shard {shard}, which is not there")
        for name, tensor in read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                claim = weight_map.get(name, "no shard")
                refuse(folder / shard, f"the file holds it but the index gives it to {claim}", name)
            tensors[name] = tensor
    missing = next((name for name in weight_map if name not in tensors), None)
    if missing is not None:
        refuse(index, f"it gives the tensor to {weight_map[missing]}, which doesn't hold it", missing)
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > HEADER_LIMIT:
        refuse(index, f"it has {index.stat().st_size:,} bytes; an index has at most {HEADER_LIMIT:,}")
    weight_map = _parse(index, index.read_bytes()).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        refuse(index, "it has no weight_map of tensor names to file names")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard) or ".." in shard:
            refuse(index, f"it names {str(shard)[:80]!r}, which is no file name of a shard", name)
    return weight_map
