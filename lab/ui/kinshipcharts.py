"""Pictures of how models stand to each other: heat maps of layers and modules, and how large changes are.

Pure functions from a report to Plotly figures. A cell of a map carries its name as customdata, so that a
click can tell which it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from lab.merge.inspect.kinship import EDGES, LARGE, SMALL, Tally, pairs
from lab.merge.inspect.places import Place
from lab.merge.inspect.report import Report
from lab.merge.inspect.words import norm_ratio, percent, signed
from lab.ui.charts import OKABE_ITO, new_figure
from lab.ui.widgets import LETTERS

_GREY = "rgba(128,140,155,.7)"
_AMOUNT = ("rgba(0,114,178,.08)", "#0072b2")
_BALANCE = ("#d55e00", "rgba(128,140,155,.12)", "#0072b2")


@dataclass(frozen=True)
class View:
    """One heat map that there is to see.

    Attributes:
        key: its name for the page.
        title: its name for people.
        value: what it shows of a tally; None where there is nothing to show.
        unit: the value's unit after a number, as d3 formats it: ".2%" or ".2f".
        middle: what is neutral, for values that lie on both sides of it; None for amounts from 0 on.
        is_bad_high: whether what is above the middle is the orange side.
    """

    key: str
    title: str
    value: Callable[[Tally], float | None]
    unit: str
    middle: float | None = None
    is_bad_high: bool = False


def views(report: Report) -> list[View]:
    """Return the heat maps of a report: distances of each model, then cosine and conflicts of each pair."""
    names = [f"{LETTERS[i]} {name}" for i, name in enumerate(report.models)]
    if report.purpose == "after":
        found = [
            View(f"d{i}", f"Distance from {name}", partial(Tally.distance_to, model=i), ".2%")
            for i, name in enumerate(names)
        ]
        return [*found, View("n", "Norm beside the parents'", norm_ratio, ".3f", 1.0, is_bad_high=True)]
    found = [
        View(f"d{i}", f"Distance of {name} from the base", partial(Tally.distance, model=i), ".2%")
        for i, name in enumerate(names)
    ]
    for pair, (one, two) in enumerate(pairs(len(names))):
        both = f"{names[one]} and {names[two]}"
        conflicts = partial(Tally.conflicts, pair=pair)
        found += [
            View(f"c{pair}", f"Cosine of {both}", partial(Tally.cosine, pair=pair), ".2f", 0.0),
            View(f"s{pair}", f"Sign conflicts of {both}", conflicts, ".1%", 0.5, is_bad_high=True),
        ]
    return found


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean.

    Attributes:
        low, high: the values at its ends.
        colours: of the lowest, the middle and the highest value.
        marks: both ends in words, and the middle where it is neutral.
    """

    low: float
    high: float
    colours: tuple[str, ...]
    marks: tuple[str, ...]


def scale_of(report: Report, view: View) -> Scale:
    """Return the scale of a map: from nothing to the most, or as far on both sides of what is neutral."""
    inside = (tally for place, tally in report.cells.items() if place.layer is not None)
    known = [value for tally in inside if (value := view.value(tally)) is not None]
    if view.middle is None:
        high = max(known, default=0.0) or 1e-9
        return Scale(0.0, high, _AMOUNT, ("0 %", percent(high)))
    span = max((abs(value - view.middle) for value in known), default=0.0)
    span = max(span, 0.05 if view.middle else 0.1)
    ends = (view.middle - span, view.middle, view.middle + span)
    spell = percent if view.unit.endswith("%") else signed
    colours = _BALANCE if not view.is_bad_high else _BALANCE[::-1]
    return Scale(ends[0], ends[2], colours, tuple(spell(one) for one in ends))


def kinship_map(report: Report, view: View) -> Any:
    """Draw one view: a column for each layer, a row for each kind of module."""
    layers = list(report.layers)
    kinds = [
        kind for kind in report.kinds if any(p.layer is not None and p.kind == kind for p in report.cells)
    ]
    cells = report.cells
    values = [[_value(view, cells.get(Place(layer, kind))) for layer in layers] for kind in kinds]
    scale = scale_of(report, view)
    figure = new_figure(96 + 24 * max(len(kinds), 1), "layer", "")
    figure.add_heatmap(
        z=values,
        x=layers,
        y=[f"{name} " for name in short_names(kinds)],
        customdata=[[cell_key(Place(layer, kind)) for layer in layers] for kind in kinds],
        colorscale=[[n / (len(scale.colours) - 1), one] for n, one in enumerate(scale.colours)],
        zmin=scale.low,
        zmax=scale.high,
        xgap=1,
        ygap=2,
        showscale=False,  # the page draws it: Plotly's own loses its colours when the address changes
        hovertemplate=f"layer %{{x}}, %{{y}}<br>{_plain(view.title)}: %{{z:{view.unit}}}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        hovermode="closest",
        showlegend=False,
        margin={"l": 8, "r": 8, "t": 8, "b": 40},
        xaxis={"showgrid": False, "nticks": 8, "tickangle": 0},
        yaxis={"autorange": "reversed", "showgrid": False},
    )
    return figure


def changes_chart(report: Report, tally: Tally, title: str) -> Any:
    """Draw how large the changes of each model are, on a logarithmic axis, with DARE's two bounds.

    Args:
        report: for the models' names.
        tally: of one tensor, or of all.
        title: what it is of.
    """
    figure = new_figure(280, "size of a change, |d|", "share of weights")
    middles = [math.sqrt(a * b) for a, b in pairwise(EDGES)]
    filled = [i for i in range(len(middles)) if any(row[i + 1] for row in tally.histogram)]
    bins = range(max(filled[0] - 1, 0), min(filled[-1] + 2, len(middles))) if filled else range(12, 32)
    for model, name in enumerate(report.models):
        figure.add_scatter(
            x=[middles[i] for i in bins],
            y=[tally.share(tally.histogram[model], i + 1) for i in bins],
            name=f"{LETTERS[model]} {name}",
            mode="lines",
            line={"color": OKABE_ITO[model % 8], "width": 2, "shape": "hvh"},
            hovertemplate="%{y:.1%}",
        )
    if report.purpose == "before":
        _draw_bounds(figure)
    figure.update_xaxes(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, tickangle=0)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_layout(
        title={"text": _plain(title), "font": {"size": 13}, "x": 0, "xref": "paper", "y": 0.98},
        margin={"l": 52, "r": 16, "t": 64, "b": 44},
    )
    return figure


def _draw_bounds(figure: Any) -> None:
    """Mark between which sizes of change DARE works and fails; of a logarithmic axis notes take the log."""
    for bound, words in ((SMALL, "DARE drops 90 % within"), (LARGE, "fails at")):
        figure.add_vline(x=bound, line={"color": _GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=math.log10(bound), y=1, yref="paper", xanchor="right", yanchor="top", textangle=-90,
            text=f"{words} {bound:g}", showarrow=False, font={"size": 11, "color": "#7a8899"},
        )  # fmt: skip


def cell_key(place: Place) -> str:
    """Return a place as the page hands it around: "3|self_attn.q_proj", or "|embed_tokens"."""
    return f"{'' if place.layer is None else place.layer}|{place.kind}"


def place_from(key: str) -> Place | None:
    """Read what `cell_key` wrote; None for anything else."""
    layer, bar, kind = key.partition("|")
    if not bar or not kind or not (layer == "" or layer.isdecimal()):
        return None
    return Place(int(layer) if layer else None, kind)


def short_names(kinds: Sequence[str]) -> list[str]:
    """Return the last word of each kind, its longest parts cut short; or all of it where two are alike."""
    last = [
        kind.rsplit(".", 1)[-1].replace("layernorm", "norm").replace("attention_", "attn_") for kind in kinds
    ]
    return [name if last.count(name) == 1 else kind for name, kind in zip(last, kinds, strict=True)]


def _value(view: View, tally: Tally | None) -> float | None:
    return None if tally is None else view.value(tally)


def _plain(text: str) -> str:
    """Take from a text what Plotly would read as markup."""
    return text.replace("<", "‹").replace(">", "›").replace("%{", "% {")
