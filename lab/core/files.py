"""Files that last: what is synced is there after a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Write a file's content, or a folder's renames, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
