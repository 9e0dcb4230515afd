"""Is the merge bad, or was a parent bad? A verdict from bits per byte on the same texts. Pure.

The interval of the paired difference decides, not p: a few texts can show a large gap, and p can't.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Who = Literal["nobody", "merge", "parent"]

NOTABLE = 0.01
"""A gap under this share of the figure is not worth a word, however certain."""


@dataclass(frozen=True)
class Blame:
    """Who is to blame, and the sentence that says why, with its figures."""

    who: Who
    sentence: str


def blame(result: str, values: Mapping[str, float], against: Mapping[str, Mapping[str, Any]]) -> Blame:
    """Say whether a merge is worse than what it was made from.

    Args:
        result: the merge's name.
        values: bits per byte of the result and its parents; lower is better.
        against: by parent, the paired difference parent minus result: value, low and high.

    Raises:
        ValueError: the result or every parent is missing.
    """
    parents = {name: value for name, value in values.items() if name != result}
    if result not in values or not parents:
        raise ValueError("A verdict takes the result and at least one parent.")
    best, worst = min(parents, key=lambda name: parents[name]), max(parents, key=lambda name: parents[name])
    own = values[result]
    figures = f"{result} {own:.3f}, {', '.join(f'{name} {value:.3f}' for name, value in parents.items())}"
    told = f"({figures} bits per byte; lower is better)"
    beaten_by = {name: _is_worse(against.get(name, {}), own) for name in parents}
    if all(beaten_by.values()):
        return Blame("merge", f"The merge is to blame: {result} reads worse than all its parents {told}.")
    if beaten_by[best]:
        return Blame(
            "parent",
            f"The input is to blame: {worst} is the weaker parent, and {result} lies between "
            f"{best} and {worst} {told}. The merge itself did no harm.",
        )
    if own < parents[best] * (1 - NOTABLE):
        return Blame("nobody", f"Nothing is wrong: {result} reads better than all its parents {told}.")
    if parents[worst] > parents[best] * 1.1:
        return Blame(
            "nobody",
            f"The merge is sound: {result} reads as well as {best}, its best parent, though {worst} is weak "
            f"{told}.",
        )
    return Blame("nobody", f"Nothing is wrong: {result} reads as well as its best parent, {best} {told}.")


def _is_worse(parent_less_result: Mapping[str, Any], own: float) -> bool:
    """Tell whether the result needs more bits than a parent: by the whole interval, and notably."""
    value, high = parent_less_result.get("value"), parent_less_result.get("high")
    if value is None or high is None:
        return False
    return float(high) < 0 and -float(value) > NOTABLE * own
