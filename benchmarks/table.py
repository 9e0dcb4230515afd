"""What a benchmark hands back, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured thing.

    Attributes:
        what: what was measured: "0.5B ties merge, CPU seconds against mergekit 0.1.5".
        measured: the figure with its unit, such as "9.1 times fewer".
        target: what it should be, such as "at least 8 times fewer"; "" where it is for information.
        is_met: whether it is; None where there is no target or nothing could be measured.
        note: what a reader must know: what it was run on, or why nothing was measured.
    """

    what: str
    measured: str
    target: str = ""
    is_met: bool | None = None
    note: str = ""


def table(title: str, command: str, rows: Sequence[Row]) -> str:
    """Spell a benchmark's rows as a text table with its title, and the command that repeats it."""
    head = ("", "what", "measured", "target", "note")
    mark = {True: "ok", False: "MISSED", None: ""}
    lines = [head, *((mark[row.is_met], row.what, row.measured, row.target, row.note) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    body = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([title, f"  {command}", "", *body, ""])
