"""Whether a job whose attempt was lost gets another one, and how it ends when it doesn't."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping

from lab.core.lastwords import UNHEARD, LastWords

MOST_CRASHES = 3
MOST_STALLS = 2

MEMORY = "out_of_memory"
STALLED = "stalled"
DEVICE = "device_lost"
"""Codes of losses that are treated in a way of their own."""

SMALLER, ON_CPU = 1, 2
"""How a job is tried again whose memory ran out: in a smaller plan of its own, or on the CPU."""


@dataclass(frozen=True)
class Loss:
    """How an attempt was lost.

    Attributes:
        why: the cause, for the record of the attempt.
        code, text: how the job fails if it gets no other attempt.
        crashes: deaths of its process to be counted.
        last_words: what is known of the process's end.
        thrift: for MEMORY, how to try it again: SMALLER or ON_CPU.
    """

    why: str
    code: str
    text: str
    crashes: int = 1
    last_words: LastWords = UNHEARD
    thrift: int = SMALLER


Verdict = tuple[tuple[str, str, None], dict[str, int]]


def verdict_on(row: RowMapping, loss: Loss) -> Verdict | None:
    """Return how a job fails whose attempt was lost, and what else changes in its row; None to try again.

    Where the memory ran out it is tried once more in a smaller plan; where it hung, once more as it was.
    Any other death of its process is forgiven twice.
    """
    count = row["crash_count"] + loss.crashes
    ending = (loss.code, loss.text, None), {"crash_count": count}
    if not row["resumable"]:
        return (loss.code, loss.text, None), {}
    if loss.code == MEMORY:
        return ending if row["thrift"] else None
    if loss.code == STALLED and count >= MOST_STALLS:
        return ending
    if count < MOST_CRASHES:
        return None
    text = f"Its process died {count} times, last: {loss.why}. Read its log, then run a changed recipe."
    return ("poison", text, None), {"crash_count": count}


def changes_for_another(row: RowMapping, loss: Loss) -> dict[str, Any]:
    """Return what changes in the row of a job that is queued again."""
    return {
        "crash_count": row["crash_count"] + loss.crashes,
        "worker_id": None,
        "lease_until": None,
        "thrift": loss.thrift if loss.code == MEMORY else row["thrift"],
    }
