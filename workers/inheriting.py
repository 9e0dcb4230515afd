"""What a failed job leaves to the one that repeats it: its work, with checkpoints and finished shards."""

from contextlib import suppress

from lab.core.errors import NotFound
from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.rows import JobRow

WORTH_KEEPING = frozenset(
    {
        "interrupted",
        "poison",
        "stalled",
        "out_of_memory",
        "device_lost",
        "internal",
        "store_unavailable",
    }
)
"""Codes of failures after which a job may go on where it was: the cause can be gone, the work is good."""


def leaves_its_work(row: JobRow) -> bool:
    """Whether a job that has ended keeps its work folder for a while, for whoever runs it again."""
    return row.state == "failed" and row.resumable and row.error_code in WORTH_KEEPING


def inherit_work(row: JobRow, store: Store, settings: Settings) -> str:
    """Take over the work of the failed job that this one repeats, before its first attempt begins.

    Only the very same recipe goes on with it, and only once: the folder changes hands.

    Returns:
        The id of the failed job; nothing where there is no work to take over.
    """
    own = settings.jobs / row.id / "work"
    if row.parent_id is None or row.attempt != 1 or own.exists():
        return ""
    with suppress(NotFound, OSError):
        parent = store.jobs.get(row.parent_id)
        if leaves_its_work(parent) and parent.spec_sha256 == row.spec_sha256:
            own.parent.mkdir(parents=True, exist_ok=True)
            (settings.jobs / parent.id / "work").rename(own)
            return parent.id
    return ""
