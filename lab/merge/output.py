"""The result's weight files: laid out before a number is computed, written in place, finished one by one.

A shard is written as NAME.part, synced, hashed, renamed to NAME, and only then recorded as done. A
shard with a true record is never written again, so a merge goes on where it was killed.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.files import sync
from lab.merge.plan import OutputTensor
from lab.models.headers import INDEX_FILE, ITEM_BYTES, WEIGHT_FILES

_PIECE = 1 << 20  # bytes that are hashed in one go, where they are read back

SHARD_BYTES = 1_000_000_000
"""A shard is at most this long, unless a single tensor is longer."""


@dataclass(frozen=True)
class Shard:
    """One weight file of the result, before it is written.

    Attributes:
        file: its name.
        header: its first bytes.
        tensors: what it holds, in order.
        starts: where each tensor's data begins, in bytes from the start of the file.
        size_bytes: how long the file will be.
    """

    file: str
    header: bytes
    tensors: tuple[OutputTensor, ...]
    starts: tuple[int, ...]
    size_bytes: int


def lay_out(tensors: Iterable[OutputTensor], limit: int = SHARD_BYTES) -> tuple[Shard, ...]:
    """Divide the tensors among files and place each one, in order.

    Args:
        tensors: all tensors of the result.
        limit: the most bytes of data in one file.
    """
    groups: list[list[OutputTensor]] = [[]]
    size = 0
    for tensor in tensors:
        size += tensor.size_bytes
        if groups[-1] and size > limit:
            groups.append([])
            size = tensor.size_bytes
        groups[-1].append(tensor)
    count = len(groups)
    names = (
        [WEIGHT_FILES[0]]
        if count == 1
        else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    )
    return tuple(_shard(name, group) for name, group in zip(names, groups, strict=True))


def write_index(shards: Sequence[Shard], folder: Path) -> None:
    """Write the index of a sharded model; a single file needs none."""
    if len(shards) == 1:
        return
    size = sum(tensor.size_bytes for shard in shards for tensor in shard.tensors)
    weight_map = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


class ShardFile:
    """One weight file while it is written. Threads may write different tensors at the same time.

    It is hashed from start to end on the way: what is written in order as it is written, the rest when
    the tensor is said to be whole. Two threads never hash, and none waits for another that does.

    Args:
        shard: what it will hold.
        folder: where the finished file goes.
        records: where it is recorded that it is finished.
        recipe: what the result is made from; a record for another recipe doesn't count.
    """

    def __init__(self, shard: Shard, folder: Path, records: Path, recipe: str) -> None:
        self.shard = shard
        self._final, self._part = folder / shard.file, folder / f"{shard.file}.part"
        self._record = records / f"{shard.file}.json"
        self._recipe = recipe
        self._handle = -1
        self._digest, self._digested = hashlib.sha256(), 0
        self._hashing = threading.Lock()
        self._whole: set[int] = set()  # places of the tensors that are written
        self._front = 0  # the first tensor that is not hashed whole
        self.sha256 = ""  # of the finished file

    def is_done(self) -> bool:
        """Whether an earlier attempt finished this file, and it is still what it was."""
        try:
            record = json.loads(self._record.read_text("utf-8"))
            self.sha256 = str(record.get("sha256"))
            is_same = self._describe() == record
            return (
                is_same
                and self._final.stat().st_size == self.shard.size_bytes
                and _sha256(self._final) == record["sha256"]
            )
        except (OSError, ValueError):
            return False

    def open(self) -> None:
        """Create the file at its full length and write its header."""
        self._handle = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._reserve()
        self.write(0, self.shard.header)

    def _reserve(self) -> None:
        """Take the whole file's room now: a full disk is found before anything is computed."""
        try:
            os.posix_fallocate(self._handle, 0, self.shard.size_bytes)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            os.ftruncate(self._handle, self.shard.size_bytes)  # not everywhere can room be taken

    def write(self, offset: int, data: Any) -> None:
        """Write bytes in place."""
        view = memoryview(data).cast("B")
        # Nobody else gets past this place before it is written, so it is still the digest's after the lock.
        if offset == self._digested and self._hashing.acquire(blocking=False):
            try:
                self._digest.update(view)
                self._digested += len(view)
            finally:
                self._hashing.release()
        while view:
            written = os.pwrite(self._handle, view, offset)
            offset, view = offset + written, view[written:]

    def settle(self, place: int) -> None:
        """Take note that a tensor is whole, and hash what is whole from the start on."""
        self._whole.add(place)
        if not self._hashing.acquire(blocking=False):
            return
        try:
            while self._front in self._whole:
                self._hash_back(self._end_of(self._front))
                self._front += 1
        finally:
            self._hashing.release()

    def _end_of(self, place: int) -> int:
        return self.shard.starts[place] + self.shard.tensors[place].size_bytes

    def _hash_back(self, end: int) -> None:
        """Hash up to a place, reading back what was written out of order."""
        while self._digested < end:
            piece = os.pread(self._handle, min(_PIECE, end - self._digested), self._digested)
            self._digest.update(piece)
            self._digested += len(piece)

    def finish(self) -> None:
        """Hash what is left, sync, rename and record the file, which is whole."""
        with self._hashing:
            self._hash_back(self.shard.size_bytes)
        os.fsync(self._handle)
        self.close()
        self.sha256 = self._digest.hexdigest()
        self._part.rename(self._final)
        sync(self._final.parent)
        waiting = self._record.with_suffix(".part")
        with waiting.open("w", encoding="utf-8") as file:
            json.dump(self._describe(), file)
            file.flush()
            os.fsync(file.fileno())
        waiting.rename(self._record)
        sync(self._record.parent)

    def close(self) -> None:
        """Close the file, finished or not."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _describe(self) -> dict[str, Any]:
        header = hashlib.sha256(self.shard.header).hexdigest()
        return {
            "recipe": self._recipe,
            "header": header,
            "size_bytes": self.shard.size_bytes,
            "sha256": self.sha256,
        }


def _shard(file: str, group: Sequence[OutputTensor]) -> Shard:
    # The wider numbers first, so that every tensor starts at a multiple of its numbers' size.
    tensors = tuple(sorted(group, key=lambda tensor: -ITEM_BYTES[tensor.dtype]))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins, at = [], 0
    for tensor in tensors:
        end = at + tensor.size_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        begins.append(at)
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Shard(file, header, tensors, tuple(len(header) + begin for begin in begins), len(header) + at)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
