"""A control group with little memory, for a test that wants the kernel to kill a process in it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOTS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
"""Where groups are made, and the file that limits one: of the first kind, and of the second."""


@contextmanager
def narrow_group(limit_bytes: int) -> Iterator[Path | None]:
    """Make a group and remove it again; None where this machine does not let us."""
    group = next((made for root, file in ROOTS.items() if (made := _make(root, file, limit_bytes))), None)
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def _make(root: Path, file: str, limit_bytes: int) -> Path | None:
    group = root / f"lab-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        (group / file).write_text(str(limit_bytes))
    except OSError:
        group.rmdir()
        return None
    return group
