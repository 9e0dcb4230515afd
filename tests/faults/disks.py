"""Disks of eight megabytes, for what happens when one is full, can't be written, or is another one."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from toy_kind import fill

MEGABYTES = 8
MEMORY_DISK = Path("/dev/shm")
LARGEST_TO_FILL = 1 << 30


class SmallDisk:
    """A disk of its own at a folder, with room for eight megabytes."""

    def __init__(self, folder: Path, ballast: Path) -> None:
        self.folder = folder
        self._ballast = ballast

    def fill(self, leave: int = 0) -> None:
        """Fill it, but for so many bytes."""
        fill(self._ballast, leave)

    def empty(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Put a small disk at a folder: mounted or, where nothing may be mounted, a part of a small /dev/shm."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if may_mount():
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "lab-test", folder], check=True)
        try:
            yield SmallDisk(folder, folder / ".ballast")
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        return
    if not MEMORY_DISK.is_dir() or shutil.disk_usage(MEMORY_DISK).total > LARGEST_TO_FILL:
        pytest.skip("nothing can be mounted here, and /dev/shm is too large to fill")
    place = Path(tempfile.mkdtemp(prefix="lab-disk-", dir=MEMORY_DISK))
    if folder.is_dir():
        folder.rmdir()
    folder.symlink_to(place)
    try:
        fill(place / ".rest", leave=MEGABYTES << 20)
        yield SmallDisk(folder, place / ".ballast")
    finally:
        shutil.rmtree(place)


def may_mount() -> bool:
    """Whether this process may mount a disk."""
    with tempfile.TemporaryDirectory() as probe:
        tried = subprocess.run(["mount", "-t", "tmpfs", "lab-test", probe], capture_output=True, check=False)
        if tried.returncode == 0:
            subprocess.run(["umount", "--lazy", probe], check=True)
        return tried.returncode == 0


@contextmanager
def read_only(disk: SmallDisk) -> Iterator[None]:
    """Let a mounted disk only be read."""
    subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk.folder], check=True)
