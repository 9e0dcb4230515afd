"""Which rows are held out for evaluation: decided by their content, so that every run of a dataset agrees."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lab.data.formats import Conversation

LEAST, MOST, SHARE = 16, 200, 20


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to evaluate on; no conversation is in both."""

    train: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]


def held_out_count(rows: int) -> int:
    """Return how many rows to hold out: 5 %, between 16 and 200, but never more than a fifth."""
    return min(max(LEAST, min(rows // SHARE, MOST)), rows // 5)


def split(rows: Sequence[Conversation], held_out: int | None = None) -> Split:
    """Hold out the rows whose content hashes lowest, whatever order the file has them in.

    Args:
        rows: conversations, each at most once.
        held_out: how many to hold out; None takes `held_out_count`.

    Returns:
        Both parts, in the file's order. At least one row is left to train on.
    """
    count = held_out_count(len(rows)) if held_out is None else min(held_out, max(len(rows) - 1, 0))
    by_hash = sorted(range(len(rows)), key=lambda index: hashlib.sha256(repr(rows[index]).encode()).digest())
    chosen = set(by_hash[:count])
    train = tuple(row for index, row in enumerate(rows) if index not in chosen)
    return Split(train, tuple(rows[index] for index in sorted(chosen)))
