"""Datasets as the Fine-tune page shows them: the verdict on the rows, and rows as tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.store.rows import DatasetRow
from lab.data.reading import Verdict
from lab.ui import widgets
from lab.ui.widgets import esc
from lab.ui.words import percent

MOST_BAD = 50


def verdict_html(row: DatasetRow, verdict: Verdict | None = None) -> str:
    """Say how many rows a dataset has and, right after an upload, which were refused and why."""
    facts = row.facts
    chips = widgets.chips(
        [
            f"{facts.get('rows', 0):,} rows kept",
            f"{facts['refused']:,} refused" if facts.get("refused") else "",
            f"{facts['repeated']:,} repeated" if facts.get("repeated") else "",
            f"{facts.get('held_out', 0)} held out for evaluation",
            str(facts.get("format") or ""),
        ]
    )
    return f"{chips}{_lines(verdict)}"


def _lines(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    bad = _list("Refused rows", verdict.bad, "refused")
    odd = _list("Rows that deserve a look", verdict.odd, "odd")
    return bad + odd


def _list(title: str, lines: Sequence[tuple[int, str]], key: str) -> str:
    if not lines:
        return ""
    shown = "".join(
        f"<li><span>line {number}: {esc(reason)}</span></li>" for number, reason in lines[:MOST_BAD]
    )
    more = (
        f"<p class='lab-muted lab-small'>and {len(lines) - MOST_BAD:,} more</p>"
        if len(lines) > MOST_BAD
        else ""
    )
    look = "lab-no" if key == "refused" else "lab-so"
    items = f'<ul class="lab-checks lab-small" style="margin-top:6px">{shown}</ul>{more}'.replace(
        "<li>", f'<li class="{look}">'
    )
    return widgets.fold(f"{title} ({len(lines)})", items, f"data-{key}")


def tokens_html(told: Mapping[str, Any]) -> str:
    """Draw a preview: rows as tokens, the trained ones tinted, and the figures of the whole dataset.

    Args:
        told: a preview job's result: `rows`, each with `pieces` [[text, is_trained], ...], `tokens` and
            `cut`; and the figures `trained_share`, `p50`, `p99`, `longest`.
    """
    figures = widgets.chips(
        [
            f"{percent(told.get('trained_share', 0))} of the tokens are trained",
            f"half of the rows have {told.get('p50', 0)} tokens or fewer",
            f"longest row {told.get('longest', 0)}",
        ]
    )
    legend = (
        '<p class="lab-small lab-muted" style="margin:10px 0 8px">What the model sees: '
        '<span class="lab-token lab-trained">tinted</span> tokens are what it learns to write.</p>'
    )
    drawn = "".join(_row(number, row) for number, row in enumerate(told.get("rows", ()), 1))
    return f"{figures}{legend}{drawn}"


def _row(number: int, row: Mapping[str, Any]) -> str:
    tokens = "".join(
        f'<span class="lab-token{" lab-trained" if is_trained else ""}">{_spell(text)}</span>'
        for text, is_trained in row["pieces"]
    )
    cut = ", cut to the longest length allowed" if row.get("cut") else ""
    words = f"Row {number}: {row['tokens']} tokens{cut}"
    return (
        f'<div class="lab-token-row"><p class="lab-small lab-muted">{esc(words)}</p>'
        f'<div class="lab-tokens">{tokens}</div></div>'
    )


def _spell(text: str) -> str:
    return esc(text).replace("\n", "↵\n")
