"""Files that last: what is synced is there after a power cut, and a folder that somebody holds stays."""

import fcntl
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Write a file's content, or a folder's renames, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Take an open file or folder for ourselves; False where somebody holds it. Closing it lets go."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_idle(folder: Path) -> bool:
    """Whether no process of this host holds a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return try_lock(handle)
    finally:
        os.close(handle)
