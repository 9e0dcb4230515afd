"""The catalog as HTML: the table of models, and the card that opens from a row."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.store.rows import JobRow, ModelRow, ScoreRow
from lab.models.catalog import CatalogEntry
from lab.ui import widgets
from lab.ui.modelview import compare_link
from lab.ui.widgets import esc
from lab.ui.words import ago, count, listed, size

_SCORE_WORDS = {"accuracy_normalised": "acc. norm.", "accuracy": "accuracy", "bits_per_byte": "bits/byte"}
_COUNTS = ("parameters", "layers", "hidden", "vocabulary", "context")


def table(
    entries: Sequence[CatalogEntry], scores: Sequence[ScoreRow], now: float, card: tuple[str, str]
) -> str:
    """Return the table of models.

    Args:
        entries: the models, in the order of the table.
        scores: all scores of these models.
        now: the present, by the database's clock.
        card: name of the model that is open, and its card's HTML.
    """
    head = "".join(
        f"<th{' class=lab-num' if name in ('Parameters', 'Size') else ''}>{name}</th>"
        for name in ("Model", "Parents", "Parameters", "Size", "Made", "Scores")
    )
    rows = "".join(
        _row(entry, [row for row in scores if row.model == entry.row.name], now)
        + (_opened(card[1]) if entry.row.name == card[0] else "")
        for entry in entries
    )
    return (
        f'<div class="lab-card lab-table-card" data-address="model" data-value="{esc(card[0])}">'
        f'<table class="lab-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def card(
    entry: CatalogEntry, made_by: JobRow | None, files: Sequence[tuple[str, int]], *, may_delete: bool
) -> str:
    """Return what an open row shows: facts, family, files, recipe and buttons."""
    row = entry.row
    folds = [widgets.fold(f"Files ({len(files)})", _files(files), f"files-{row.name}")] if files else []
    if made_by is not None:
        recipe = esc(json.dumps(made_by.spec, indent=2, ensure_ascii=False))
        folds.append(widgets.fold("Recipe", f'<pre class="lab-log">{recipe}</pre>', f"recipe-{row.name}"))
    fault = (
        widgets.note(f"{entry.fault} It can't be used; delete it and make it again.", "warm")
        if entry.fault
        else ""
    )
    return (
        f"{fault}{widgets.facts(_facts(entry, made_by))}{''.join(folds)}"
        f'<div class="lab-buttons">{_actions(row, may_delete=may_delete)}</div>'
    )


def short_facts(facts: Mapping[str, Any]) -> str:
    """Say a model's architecture in a few words."""
    layers = facts.get("layers")
    return " · ".join(
        str(part) for part in (facts.get("architecture", ""), f"{layers} layers" if layers else "") if part
    )


def _row(entry: CatalogEntry, scores: Sequence[ScoreRow], now: float) -> str:
    row = entry.row
    look = widgets.badge("missing", "bad") if entry.fault else widgets.kind_badge(row.kind)
    parameters = row.facts.get("parameters")
    return (
        f'<tr class="lab-row" data-model="{esc(row.name)}"><td>'
        f'<button type="button" class="lab-link" data-do="open" data-id="{esc(row.name)}">'
        f"{esc(row.name)}</button> {look}"
        f'<br><span class="lab-muted lab-small">{esc(row.words or short_facts(row.facts))}</span></td>'
        f'<td class="lab-small lab-wide lab-break" data-label="Parents">{esc(listed(row.parents))}</td>'
        f'<td class="lab-num" data-label="Parameters">{esc(count(parameters)) if parameters else ""}</td>'
        f'<td class="lab-num" data-label="Size">{esc(size(row.size_bytes))}</td>'
        f'<td class="lab-small lab-muted" data-label="Made">{esc(ago(row.created, now))}</td>'
        f'<td data-label="Scores" class="lab-wide">{_scores(scores)}</td></tr>'
    )


def _opened(inside: str) -> str:
    detail = f'<div class="lab-job-detail">{inside}</div>'
    return f'<tr class="lab-opened"><td colspan="6" class="lab-wide">{detail}</td></tr>'


def _scores(scores: Sequence[ScoreRow]) -> str:
    words = [f"{_SCORE_WORDS.get(one.metric, one.metric)} {one.value:.3f}" for one in scores[:4]]
    return widgets.chips(words) if words else ""


def _facts(entry: CatalogEntry, made_by: JobRow | None) -> list[tuple[str, str]]:
    row = entry.row
    told = [
        (name.replace("_", " ").capitalize(), _spell(name, value))
        for name, value in sorted(row.facts.items())
    ]
    return [
        ("Made by", f"{made_by.title}, job {made_by.id}" if made_by else ""),
        ("Parents", listed(row.parents)),
        ("Children", listed(entry.children)),
        ("Size", size(row.size_bytes)),
        *told,
        ("Manifest", row.manifest_sha256[:16]),
    ]


def _spell(name: str, value: object) -> str:
    if name in _COUNTS and isinstance(value, int | float):
        return count(value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)[:300]
    return "" if value is None else str(value)


def _files(files: Sequence[tuple[str, int]]) -> str:
    lines = "".join(
        f"<dt class='lab-mono'>{esc(name)}</dt><dd>{esc(size(length))}</dd>" for name, length in files
    )
    return f'<dl class="lab-facts">{lines}</dl>'


def _actions(row: ModelRow, *, may_delete: bool) -> str:
    links = [compare_link(row)] if row.parents else []
    if row.kind != "adapter":
        links.append(f'<a class="lab-button" href="?view=finetune&amp;base={esc(row.name)}">Fine-tune</a>')
    if may_delete:
        links.append(widgets.button("Delete", "delete", row.name, look="danger", sure="Really delete?"))
    return "".join(links)
