"""A report as plain text: a line for each layer, then what stands outside layers, then the whole."""

from collections.abc import Callable, Sequence

from lab.merge.inspect.kinship import Tally, pairs
from lab.merge.inspect.report import Report
from lab.merge.inspect.words import percent, signed

LETTERS = "ABCDEFGH"
_WIDEST = 28


def table(report: Report) -> str:
    """Return the figures as lines of aligned columns, models by their letters, named above."""
    models = range(len(report.models))
    index = pairs(len(models))
    head = ["", *(f"|d|/|{'x' if report.purpose == 'after' else 'b'}| {LETTERS[i]}" for i in models)]
    head += [f"cos {LETTERS[i]}{LETTERS[j]}" for i, j in index]
    head += [f"conflicts {LETTERS[i]}{LETTERS[j]}" for i, j in index]
    named = [(f"layer {layer}", tally) for layer, tally in report.layers.items()]
    named += [(place.kind[:_WIDEST], tally) for place, tally in report.cells.items() if place.layer is None]
    named.append(("all", report.whole))
    rows = [head, *(_row(name, tally, report) for name, tally in named)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    letters = [f"{LETTERS[i]} is {name}" for i, name in enumerate(report.models)]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([f"Against {report.base}. {', '.join(letters)}.", *lines])


def _row(name: str, tally: Tally, report: Report) -> list[str]:
    models = range(len(report.models))
    index = range(len(pairs(len(models))))
    measured = tally.distance_to if report.purpose == "after" else tally.distance
    return [
        name,
        *(_told(measured(i), percent) for i in models),
        *(_told(tally.cosine(pair), signed) for pair in index),
        *(_told(tally.conflicts(pair), percent) for pair in index),
    ]


def _told(value: float | None, spell: Callable[[float], str]) -> str:
    return "-" if value is None else spell(value)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    return "  ".join([first.strip().ljust(widths[0]), *rest])
