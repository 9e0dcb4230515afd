"""Brings a finished folder onto another disk, where a rename can't: copied, compared, then renamed there.

A copy that was cut off is a hidden folder that nobody takes for a model.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from lab.core.files import sync

PART = ".part"
_CHUNK_BYTES = 8 << 20


def carry(
    folder: Path, target: Path, sha256s: Collection[tuple[str, str]], breathe: Callable[[], None]
) -> None:
    """Copy a folder to its place on another disk, whole or not at all; the folder itself goes then.

    Args:
        folder: what to bring there.
        target: its place; nothing may stand there.
        sha256s: path and sha256 of every file that must arrive as it was.
        breathe: called between chunks; may raise to give up.

    Raises:
        OSError: a disk is full, can't be written or read, or something stands at the target.
        ValueError: a file did not arrive as it was; it is named.
    """
    for leftover in target.parent.glob(f".{target.name}+*{PART}"):  # an attempt died over it
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}+", suffix=PART, dir=target.parent))
    try:
        copied = dict(_copy_into(folder, draft, breathe))
        for path, sha256 in sha256s:
            if copied.get(path) != sha256:
                raise ValueError(path)
        shutil.copymode(folder, draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _copy_into(folder: Path, draft: Path, breathe: Callable[[], None]) -> list[tuple[str, str]]:
    """Copy everything and write it through; return path and sha256 of every file."""
    copied = []
    folders = [draft]
    for item in sorted(folder.rglob("*")):
        path = item.relative_to(folder)
        if item.is_dir() and not item.is_symlink():
            (draft / path).mkdir()
            folders.append(draft / path)
        else:
            copied.append((path.as_posix(), _copy(item, draft / path, breathe)))
    for made in folders:
        sync(made)
    return copied


def _copy(source: Path, target: Path, breathe: Callable[[], None]) -> str:
    """Copy a plain file, never what a link points to; return its sha256."""
    digest = hashlib.sha256()
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with open(handle, "rb") as inside, target.open("xb") as outside:  # noqa: PTH123  a handle, no path
        while chunk := inside.read(_CHUNK_BYTES):
            outside.write(chunk)
            digest.update(chunk)
            breathe()
        outside.flush()
        os.fsync(outside.fileno())
    return digest.hexdigest()
