"""What the system says of memory: how much this host has for us, and how often it killed for want of it."""

from pathlib import Path

import psutil

LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container's limit is written: control groups of the second kind and of the first."""

KILLS = Path("/proc/vmstat")


def host_bytes() -> int:
    """Return the memory of this machine, or what its container may have of it."""
    total = int(psutil.virtual_memory().total)
    for file in LIMITS:
        text = _read(file).strip()
        if text.isdigit():
            return min(total, int(text))
    return total


def kills_for_memory() -> int:
    """Return how many processes the kernel has killed because memory ran out, on the host or in a group."""
    for line in _read(KILLS).splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdigit():
            return int(count)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
