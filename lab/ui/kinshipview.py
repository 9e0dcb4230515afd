"""A look into models as HTML: the sentences, and the figures of the tensor that was clicked."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.merge.inspect.kinship import Tally, pairs
from lab.merge.inspect.places import Place
from lab.merge.inspect.report import Report
from lab.merge.inspect.words import cell_words, near_one, norm_ratio, percent, share_of, signed
from lab.ui import widgets
from lab.ui.kinshipcharts import Scale, cell_key
from lab.ui.widgets import esc
from lab.ui.words import count

_MARKS = {"calm": "so", "warm": "heed", "bad": "no"}
_MOST_TENSORS = 4
_SAME_NORM = 0.0005


def sentences_html(told: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentences of a job's summary, each with its mark."""
    lines = "".join(
        f'<li class="lab-{_MARKS.get(one["look"], "so")}"><span>{esc(one["text"])}</span></li>'
        for one in told
    )
    return f'<ul class="lab-checks lab-insight">{lines}</ul>'


def read_words(summary: Mapping[str, Any]) -> str:
    """Say how much of the weights was read."""
    read, elements = int(summary.get("read", 0)), int(summary.get("elements", 0))
    found = int(summary.get("tensors", 0))
    tensors = f"{found:,} tensor{'s' * (found != 1)}"
    if read >= elements:
        return f"Every weight of {tensors} was read."
    return (
        f"From a sample: {count(read)} of {count(elements)} weights of each model, in {tensors}, "
        "at the same places in all."
    )


def scale_html(scale: Scale) -> str:
    """Return what the colours of a map mean: a bar with its ends, and its middle where that is neutral."""
    marks = "".join(f"<span>{esc(words)}</span>" for words in scale.marks)
    bar = f"linear-gradient(90deg, {', '.join(scale.colours)})"
    return f'<div class="lab-scale"><i style="background:{esc(bar)}"></i><div>{marks}</div></div>'


def outside_html(report: Report, chosen: Place | None) -> str:
    """Return a button for everything, and one for each tensor that stands outside the layers."""
    outside = [place for place in report.cells if place.layer is None]
    shown = [("", "All tensors"), *((cell_key(place), place.kind) for place in outside)]
    now = cell_key(chosen) if chosen else ""
    buttons = "".join(
        f'<button type="button" class="lab-button" data-do="cell" data-id="{esc(key)}" '
        f'aria-pressed="{"true" if key == now else "false"}">{esc(words)}</button>'
        for key, words in shown
    )
    return f'<span class="lab-choice" role="group" aria-label="Tensors">{buttons}</span>'


def cell_html(report: Report, chosen: Place | None) -> str:
    """Return the figures of one place of the model, or of all of it."""
    tally = report.cells[chosen] if chosen else report.whole
    title = f"{cell_words(chosen)[:1].upper()}{cell_words(chosen)[1:]}" if chosen else "All tensors"
    found = report.at(chosen) if chosen else report.figures
    names = ", ".join(one.name for one in found[:_MOST_TENSORS]) if chosen else ""
    more = f" and {len(found) - _MOST_TENSORS} more" if chosen and len(found) > _MOST_TENSORS else ""
    small = f"{count(sum(one.elements for one in found))} weights" + (f" · {names}{more}" if names else "")
    return (
        f'<div class="lab-stack" style="gap:10px"><div><h3 class="lab-h2">{esc(title)}</h3>'
        f'<span class="lab-muted lab-small lab-break">{esc(small)}</span></div>'
        f"{_models(report, tally)}{_pairs(report, tally)}{_norms(report, tally)}</div>"
    )


def _models(report: Report, tally: Tally) -> str:
    is_after = report.purpose == "after"
    heads = ("Model", "Distance", "Moved", "Largest change", "Norm")
    rows = []
    for place, name in enumerate(report.models):
        distance = tally.distance_to(place) if is_after else tally.distance(place)
        cells = (
            percent(distance) if distance is not None else "none",
            share_of(tally.share(tally.moved, place)),
            f"{tally.largest[place]:.3g}",
            f"{tally.squares[place] ** 0.5:.4g}",
        )
        tds = "".join(
            f'<td class="lab-num" data-label="{head}">{esc(cell)}</td>'
            for head, cell in zip(heads[1:], cells, strict=True)
        )
        label = f"{widgets.letter(place)} {esc(name)}"
        rows.append(f'<tr><td><span class="lab-name-line">{label}</span></td>{tds}</tr>')
    head = "".join(f'<th class="{"lab-num" if n else ""}">{words}</th>' for n, words in enumerate(heads))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="lab-table lab-tight">{body}</table>'


def _pairs(report: Report, tally: Tally) -> str:
    told = []
    for place, (one, two) in enumerate(pairs(len(report.models))):
        if report.purpose == "after":
            continue
        cosine, conflicts = tally.cosine(place), tally.conflicts(place)
        weights = tally.weight_cosine(one, two)
        words = [
            f"cosine of changes {signed(cosine)}" if cosine is not None else "no common direction",
            f"sign conflicts {percent(conflicts)}" if conflicts is not None else "",
            f"cosine of weights {near_one(weights)}" if weights is not None else "",
        ]
        letters = f"{widgets.letter(one)}{widgets.letter(two)}"
        told.append(f'<div class="lab-buttons">{letters}{widgets.chips(words)}</div>')
    return "".join(told)


def _norms(report: Report, tally: Tally) -> str:
    if report.purpose != "after":
        return ""
    ratio = norm_ratio(tally)
    words = f"Norm of {report.base} {tally.base**0.5:.4g}"
    if ratio is not None:
        is_same = abs(ratio - 1) < _SAME_NORM
        words += ", as its parents'" if is_same else f", {ratio:.3f} times the nearest parent's"
    return f'<span class="lab-muted lab-small">{esc(words)}</span>'
