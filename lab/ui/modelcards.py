"""The catalog as HTML: the table of models, and the card of the model that is chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.store.rows import JobRow, ModelRow, ScoreRow
from lab.models.catalog import CatalogEntry
from lab.ui import widgets
from lab.ui.lineage import DATA, Edge, label_of
from lab.ui.modelview import compare_link
from lab.ui.widgets import esc
from lab.ui.words import ago, count, duration, listed, size

_SCORE_WORDS = {"accuracy_normalised": "acc. norm.", "accuracy": "accuracy", "bits_per_byte": "bits/byte"}
_COUNTS = ("parameters", "vocab", "context", "hidden")
_NOT_KNOBS = frozenset({"kind", "name", "path", "title"})
_MOST_CHILDREN = 8
_MOST_PARENTS = 4


@dataclass(frozen=True)
class Card:
    """What the card of a chosen model shows.

    Attributes:
        entry: the model.
        made_by: the job that made it, where it is still known.
        edges: from its parents, with their roles.
        names: every model there is, to tell which parents can be opened.
        licence: its own and its parents' licences in words.
        files: name and size of its files.
        folder: its folder's path; "" where the reader may not know it.
        again: the name that it would get if it were run again; "" where it can't be.
        may_delete: whether the reader may delete it.
    """

    entry: CatalogEntry
    made_by: JobRow | None
    edges: Sequence[Edge]
    names: frozenset[str]
    licence: str
    files: Sequence[tuple[str, int]]
    folder: str = ""
    again: str = ""
    may_delete: bool = False


def table(entries: Sequence[CatalogEntry], scores: Sequence[ScoreRow], now: float, chosen: str = "") -> str:
    """Return the table of models.

    Args:
        entries: the models, in the order of the table.
        scores: all scores of these models.
        now: the present, by the database's clock.
        chosen: name of the model whose card is shown.
    """
    head = "".join(
        f"<th{' class=lab-num' if name in ('Parameters', 'Size') else ''}>{name}</th>"
        for name in ("Model", "Parents", "Parameters", "Size", "Made", "Scores")
    )
    by_model: dict[str, list[ScoreRow]] = {}
    for one in scores:
        by_model.setdefault(one.model, []).append(one)
    rows = "".join(
        _row(entry, by_model.get(entry.row.name, []), now, is_chosen=entry.row.name == chosen)
        for entry in entries
    )
    return (
        f'<div class="lab-card lab-table-card" data-address="model" data-value="{esc(chosen)}">'
        f'<table class="lab-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def card(one: Card) -> str:
    """Return the card of a model: what it is, what it was made from, and what can be done with it."""
    row = one.entry.row
    fault = (
        widgets.note(f"{one.entry.fault} It can't be used; delete it and make it again.", "warm")
        if one.entry.fault
        else ""
    )
    folds = [
        widgets.fold("How it was made", _making(one.made_by), f"made-{row.name}") if one.made_by else "",
        widgets.fold(f"Files ({len(one.files)})", _files(one.files), f"files-{row.name}")
        if one.files
        else "",
        widgets.fold("All facts", widgets.facts(_facts(one.entry)), f"facts-{row.name}"),
    ]
    return (
        f'<div class="lab-stack lab-model-card">{_title(row)}{fault}{widgets.figures(_figures(row))}'
        f"{_relations(one)}{_take_out(one)}"
        f'<div class="lab-buttons">{_actions(one)}</div>'
        f'<div class="lab-folds">{"".join(folds)}</div></div>'
    )


def score_words(scores: Sequence[ScoreRow]) -> list[str]:
    """Say a model's first scores in a few words each."""
    return [f"{_SCORE_WORDS.get(one.metric, one.metric)} {one.value:.3f}" for one in scores[:4]]


def short_facts(facts: Mapping[str, Any]) -> str:
    """Say a model's architecture in a few words."""
    layers = facts.get("layers")
    return " · ".join(
        str(part) for part in (facts.get("architecture", ""), f"{layers} layers" if layers else "") if part
    )


def knobs(spec: Mapping[str, Any], used: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Return the settings of a recipe as names and values; what was left to the lab is not among them.

    Args:
        spec: a stored spec.
        used: names of models and datasets, which are told elsewhere.
    """
    told: list[tuple[str, str]] = []
    for key, value in spec.items():
        if isinstance(value, Mapping):
            told += knobs(value, used)
        elif key not in _NOT_KNOBS and isinstance(value, str | int | float) and value not in used:
            words = {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else ""
            shown = words or (f"{value:g}" if isinstance(value, float) else str(value))
            told.append((key.replace("_", " ").capitalize(), shown))
    return [(name, value) for name, value in told if value]


def _row(entry: CatalogEntry, scores: Sequence[ScoreRow], now: float, *, is_chosen: bool) -> str:
    row = entry.row
    look = widgets.badge("missing", "bad") if entry.fault else widgets.kind_badge(row.kind)
    parameters = row.facts.get("parameters")
    mark = " lab-chosen" if is_chosen else ""
    current = ' aria-current="true"' if is_chosen else ""
    return (
        f'<tr class="lab-row{mark}" data-model="{esc(row.name)}"><td>'
        f'<span class="lab-name-line"><button type="button" class="lab-link" data-do="open" '
        f'data-id="{esc(row.name)}"{current}>{esc(row.name)}</button> {look}</span>'
        f'<span class="lab-muted lab-small lab-line">{esc(row.words or short_facts(row.facts))}</span></td>'
        f'<td class="lab-small lab-wide lab-break" data-label="Parents">{esc(_few(row.parents))}</td>'
        f'<td class="lab-num" data-label="Parameters">{esc(count(parameters)) if parameters else ""}</td>'
        f'<td class="lab-num" data-label="Size">{esc(size(row.size_bytes))}</td>'
        f'<td class="lab-small lab-muted lab-nowrap" data-label="Made">{esc(ago(row.created, now))}</td>'
        f'<td data-label="Scores" class="lab-wide">{_scores(scores)}</td></tr>'
    )


def _few(names: Sequence[str]) -> str:
    """Name the first few of many."""
    if len(names) <= _MOST_PARENTS:
        return listed(list(names))
    return f"{', '.join(names[: _MOST_PARENTS - 1])} and {len(names) - _MOST_PARENTS + 1} more"


def _scores(scores: Sequence[ScoreRow]) -> str:
    cells = "".join(
        f"<span><i>{esc(_SCORE_WORDS.get(one.metric, one.metric))}</i> {one.value:.3f}</span>"
        for one in scores[:4]
    )
    return f'<div class="lab-score-line">{cells}</div>' if cells else ""


def _title(row: ModelRow) -> str:
    return (
        '<div class="lab-card-head">'
        f'<h2 class="lab-break">{esc(row.name)} {widgets.kind_badge(row.kind)}</h2>'
        f'<p class="lab-muted">{esc(row.words or short_facts(row.facts))}</p></div>'
    )


def _figures(row: ModelRow) -> list[tuple[str, str]]:
    facts = row.facts
    loss = facts.get("eval_loss")
    told = [
        ("Parameters", count(facts["parameters"]) if facts.get("parameters") else ""),
        ("Layers", str(facts.get("layers") or "")),
        ("Rank", str(facts.get("rank") or "")),
        ("Context", f"{count(facts['context'])} tokens" if facts.get("context") else ""),
        ("Held-out loss", f"{loss:.3f}" if isinstance(loss, int | float) else ""),
        ("On disk", size(row.size_bytes)),
    ]
    return [(name, value) for name, value in told if value]


def _relations(one: Card) -> str:
    above = "".join(
        f"<li>{_name(edge.parent, one.names)} "
        f'<span class="lab-muted">{esc(edge.words)}{_gone_words(edge, one.names)}</span></li>'
        for edge in one.edges
    )
    children = one.entry.children
    below = ", ".join(_name(name, one.names) for name in children[:_MOST_CHILDREN])
    more = f" and {len(children) - _MOST_CHILDREN} more" if len(children) > _MOST_CHILDREN else ""
    pairs = [
        ("Made from", f'<ul class="lab-plain-list">{above}</ul>' if above else ""),
        ("Made into", below + more),
        ("Licence", esc(one.licence)),
    ]
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs if value)
    return f'<dl class="lab-facts">{cells}</dl>'


def _name(name: str, names: frozenset[str]) -> str:
    if name not in names:
        return esc(label_of(name))
    return (
        f'<button type="button" class="lab-link lab-inline" data-do="open" data-id="{esc(name)}">'
        f"{esc(name)}</button>"
    )


def _gone_words(edge: Edge, names: frozenset[str]) -> str:
    return " · deleted" if edge.role != DATA and edge.parent not in names else ""


def _making(job: JobRow | None) -> str:
    if job is None:
        return ""
    took = duration(job.finished - job.started) if job.finished and job.started else ""
    versions = job.result.get("versions")
    told = [
        ("Job", job.title),
        *knobs(job.spec, frozenset(_strings(job.spec.get("models"), job.spec.get("model")))),
        ("Took", took),
        ("Ran on", job.device),
        ("Versions", ", ".join(f"{name} {one}" for name, one in versions.items()) if versions else ""),
        ("Recipe's name", job.spec_sha256[:16]),
    ]
    link = f'<a href="?view=jobs&amp;job={esc(job.id)}">Open the job that made it</a>'
    recipe = esc(json.dumps(job.spec, indent=2, ensure_ascii=False))
    return f'{widgets.facts(told)}<p>{link}</p><pre class="lab-log">{recipe}</pre>'


def _strings(*values: Any) -> list[str]:
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return [part for part in flat if isinstance(part, str)]


def _take_out(one: Card) -> str:
    """Return where the model lies, for other tools: they read the folder as it is."""
    if not one.folder:
        return ""
    return (
        '<div class="lab-path"><span class="lab-muted lab-small">Folder, as other tools read it</span>'
        f'<code class="lab-mono lab-break">{esc(one.folder)}</code>'
        f'<button type="button" class="lab-button" data-copy="{esc(one.folder)}">Copy path</button></div>'
    )


def _facts(entry: CatalogEntry) -> list[tuple[str, str]]:
    row = entry.row
    told = [
        (name.replace("_", " ").capitalize(), _spell(name, value))
        for name, value in sorted(row.facts.items())
    ]
    return [*told, ("Manifest", row.manifest_sha256[:16])]


def _spell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes") and isinstance(value, int | float):
        return size(value)
    if name in _COUNTS and isinstance(value, int | float):
        return count(value) if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)[:300]
    return "" if value is None or value == 0 else str(value)


def _files(files: Sequence[tuple[str, int]]) -> str:
    lines = "".join(
        f"<dt class='lab-mono'>{esc(name)}</dt><dd>{esc(size(length))}</dd>" for name, length in files
    )
    return f'<dl class="lab-facts">{lines}</dl>'


def _actions(one: Card) -> str:
    row = one.entry.row
    links = [compare_link(row, look="lab-primary")] if row.parents else []
    if row.kind != "adapter":
        links.append(f'<a class="lab-button" href="?view=finetune&amp;base={esc(row.name)}">Fine-tune</a>')
    if one.again:
        links.append(widgets.button(f"Run again as {one.again}", "again", row.name))
    if one.may_delete:
        links.append(widgets.button("Delete", "delete", row.name, look="danger", sure="Really delete?"))
    return "".join(links)
