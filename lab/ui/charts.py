"""Pictures from plain rows: pure functions that give back Plotly figures.

One template for all: transparent ground, thin grid, legend on top, no animation. Text and grid take
their colours from static/crucible.css, so that a figure follows the light and the dark theme.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from lab.core.events import Event
from lab.core.store.rows import ScoreRow

OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
"""The colours of models A, B, C...; the same in columns, charts, tables and badges."""

MOST_POINTS = 1000

_MOST_TICKS = 6

_GREY = "rgba(128,140,155,.35)"

Point = tuple[float, float | None]
"""A step and its value; None leaves a gap in the line."""


@dataclass(frozen=True)
class Bar:
    """One bar of a score chart.

    Attributes:
        place: the model's place among the chosen ones: 0 is A.
        model: its name.
        value: the figure.
        low, high: its 95 % interval, where known.
        n: how many items it rests on; 0 where nobody knows yet.
    """

    place: int
    model: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class HeatRow:
    """One row of a merge's heat map.

    Attributes:
        label: at its left, short enough for a phone: "A mlp".
        words: what it is, in full.
        cells: a number for each layer; None where there is none.
        before, after: names and numbers of the tensors before and behind the layers.
    """

    label: str
    words: str
    cells: tuple[float | None, ...]
    before: tuple[tuple[str, float], ...] = ()
    after: tuple[tuple[str, float], ...] = ()


def series(events: Iterable[Event]) -> dict[str, list[Point]]:
    """Read the lines of a chart from metric events.

    A step told twice counts as told last (a job that went on at a checkpoint says steps again); a
    value that is no number is a gap.
    """
    lines: dict[str, dict[float, float | None]] = {}
    for event in events:
        if event.kind != "metric":
            continue
        for name, value in event.payload.get("values", {}).items():
            lines.setdefault(name, {})[event.payload["step"]] = _number(value)
    return {name: sorted(points.items()) for name, points in lines.items()}


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Keep at most so many points: the first, the last, and evenly spread ones between."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]


def loss_chart(lines: Mapping[str, Sequence[Point]], height: int = 340) -> Any:
    """Draw training and evaluation loss on one axis and the learning rate faintly on a second.

    Args:
        lines: points by name: `loss`, `eval_loss`, `learning_rate`; others are left out.
        height: in pixels.
    """
    figure = _figure(height, "step", "loss (nats a token)")
    figure.update_xaxes(rangemode="tozero", tickformat="d")
    _line(figure, "training loss", lines.get("loss", ()), OKABE_ITO[0])
    _line(figure, "evaluation loss", lines.get("eval_loss", ()), OKABE_ITO[5], markers=True)
    rates = lines.get("learning_rate", ())
    if rates:
        _line(figure, "learning rate", rates, _GREY, second=True)
        figure.update_layout(
            yaxis2={"overlaying": "y", "side": "right", "showgrid": False, "title": {"text": "learning rate"},
                    "exponentformat": "power", "nticks": 4, "rangemode": "tozero"}
        )  # fmt: skip
    return figure


def search_chart(
    lines: Mapping[str, Sequence[Point]], label: str, *, higher_is_better: bool, height: int = 320
) -> Any:
    """Draw every trial of a search as a point, and the best so far as a line that only gets better.

    Args:
        lines: points by name: `score` and `best`.
        label: the score for people.
        higher_is_better: which way is better, said on the axis.
        height: in pixels.
    """
    way = "higher" if higher_is_better else "lower"
    figure = _figure(height, "trial", f"{label.lower()} ({way} is better)")
    figure.update_xaxes(rangemode="tozero", tickformat="d")
    tried = thin(lines.get("score", ()))
    figure.add_scatter(
        x=[step for step, _ in tried],
        y=[value for _, value in tried],
        name="every trial",
        mode="markers",
        marker={"color": OKABE_ITO[4], "size": 7, "opacity": 0.75},
        hovertemplate="%{y:.4f}",
    )
    _line(figure, "best so far", lines.get("best", ()), OKABE_ITO[0])
    figure.update_traces(selector={"name": "best so far"}, line_shape="hv", hovertemplate="%{y:.4f}")
    return figure


def score_chart(bars: Sequence[Bar], title: str, *, higher_is_better: bool, as_percent: bool = False) -> Any:
    """Draw one bar a model with its interval; A is on top.

    Args:
        bars: one for each model that has a figure.
        title: the metric for people.
        higher_is_better: where it is not, the title says so.
        as_percent: whether the figure is a share, drawn from 0 to 100 %.
    """
    shown = sorted(bars, key=lambda bar: -bar.place)
    least_n, most_n = min((bar.n for bar in shown), default=0), max((bar.n for bar in shown), default=0)
    counts = f"{least_n}" if least_n == most_n else f"{least_n} to {most_n}"
    about = [f"{counts} items, 95 %"] if least_n else []
    about += [] if higher_is_better else ["lower is better"]
    figure = _figure(84 + 46 * max(len(shown), 1), "", "")
    figure.add_bar(
        x=[bar.value for bar in shown],
        y=[_letter(bar.place) for bar in shown],
        orientation="h",
        width=0.56,
        marker={"color": [OKABE_ITO[bar.place % 8] for bar in shown]},
        error_x=_whiskers(shown),
        customdata=[[bar.model, _spell(bar, as_percent)] for bar in shown],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        text=[_plain(bar.value, as_percent) for bar in shown],
        textposition="inside",
        insidetextanchor="start",
        textfont={"color": [_on(bar.place) for bar in shown]},
    )
    figure.update_layout(
        title={
            "text": f"{title} ({'; '.join(about)})" if about else title,
            "font": {"size": 13},
            "x": 0,
            "xref": "paper",
        },
        hovermode="closest",
        showlegend=False,
        margin={"l": 28, "r": 16, "t": 40, "b": 28},
        xaxis={"rangemode": "tozero", "tickformat": ".0%" if as_percent else None},
        yaxis={"showgrid": False, "type": "category"},
    )
    if as_percent:
        figure.update_xaxes(range=[0, 1])
    return figure


def layer_heat_map(rows: Sequence[HeatRow], what: str) -> Any:
    """Draw what every layer of a merge gets, and what stands before and behind the layers.

    Args:
        rows: all with the same number of layers.
        what: what the numbers are, such as "weight".
    """
    layers = max((len(row.cells) for row in rows), default=0)
    wide_before = max((len(row.before) for row in rows), default=0)
    wide_after = max((len(row.after) for row in rows), default=0)
    columns = [_heat_columns(row, layers, wide_before, wide_after, what) for row in rows]
    grid = [[value for value, _ in cells] for cells in columns]
    colours = _heat_colours([value for cells in grid for value in cells if value is not None])
    title = f"{what} by layer, {colours['zmin']:.3g} to {colours['zmax']:.3g}"
    figure = _figure(86 + 26 * max(len(rows), 1), title, "")
    figure.add_heatmap(
        z=grid,
        x=list(range(-wide_before - 1 if wide_before else 0, layers + (wide_after + 1 if wide_after else 0))),
        y=list(range(len(rows))),
        text=[[words for _, words in cells] for cells in columns],
        **colours,
        xgap=1,
        ygap=3,
        hoverongaps=False,
        showscale=False,
        hovertemplate="%{text}<extra></extra>",
    )
    ticks: list[tuple[float, str]] = [
        (layer, str(layer)) for layer in range(0, layers, max(1, -(-layers // _MOST_TICKS)))
    ]
    ticks += [(-wide_before / 2 - 1.5, "in")] if wide_before else []
    ticks += [(layers + wide_after / 2 + 0.5, "out")] if wide_after else []
    figure.update_layout(
        hovermode="closest",
        showlegend=False,
        margin={"l": 28, "r": 8, "t": 8, "b": 40},
        yaxis={
            "autorange": "reversed", "showgrid": False, "tickmode": "array",
            "tickvals": list(range(len(rows))), "ticktext": [f"{row.label} " for row in rows],
        },
        xaxis={
            "showgrid": False, "tickmode": "array", "tickangle": 0,
            "tickvals": [place for place, _ in ticks], "ticktext": [words for _, words in ticks],
        },
    )  # fmt: skip
    return figure


def _heat_columns(
    row: HeatRow, layers: int, wide_before: int, wide_after: int, what: str
) -> list[tuple[float | None, str]]:
    """Return the cells of a row with what is said of each; a gap divides the layers from the rest."""

    def outside(tensors: Sequence[tuple[str, float]], width: int) -> list[tuple[float | None, str]]:
        cells: list[tuple[float | None, str]] = [
            (value, f"{row.words}<br>{name}: {what} {value:.3g}") for name, value in tensors
        ]
        return cells + [(None, "")] * (width - len(cells))

    gap: list[tuple[float | None, str]] = [(None, "")]
    inside: list[tuple[float | None, str]] = [
        (value, "" if value is None else f"{row.words}<br>layer {layer}: {what} {value:.3g}")
        for layer, value in enumerate(row.cells)
    ]
    inside += [(None, "")] * (layers - len(inside))
    before = outside(row.before, wide_before) + gap if wide_before else []
    after = gap + outside(row.after, wide_after) if wide_after else []
    return before + inside + after


def _heat_colours(values: Sequence[float]) -> dict[str, Any]:
    """Return a scale from nothing to the largest; two-sided where a number is negative."""
    size = max((abs(value) for value in values), default=1.0) or 1.0
    if any(value < 0 for value in values):
        scale = [[0, "#d55e00"], [0.5, "rgba(128,140,155,.12)"], [1, "#0072b2"]]
        return {"colorscale": scale, "zmin": -size, "zmax": size}
    return {"colorscale": [[0, "rgba(0,114,178,.08)"], [1, "#0072b2"]], "zmin": 0, "zmax": size}


def stacked_layers(origins: Sequence[tuple[str, int]]) -> Any:
    """Draw which layer of which model stands at each place of a stack, and where layers meet that never did.

    Args:
        origins: model and layer of every output layer, bottom to top.
    """
    figure = _figure(240, "layer of the result", "layer it was")
    names = list(dict.fromkeys(name for name, _ in origins))
    runs = [[0]] if origins else []
    for place in range(1, len(origins)):
        if is_seam(origins[place - 1], origins[place]):
            runs.append([])
        runs[-1].append(place)
    for run in runs:
        name = origins[run[0]][0]
        _line(
            figure, name, [(at, origins[at][1]) for at in run], OKABE_ITO[names.index(name) % 8], markers=True
        )
        figure.data[-1].update(
            showlegend=len(names) > 1
            and run[0] == next(at for at, one in enumerate(origins) if one[0] == name),
            hovertemplate=f"{name}, layer %{{y}}",
        )
    for before, after in pairwise(runs):
        words = f"{origins[before[-1]][1]} meets {origins[after[0]][1]}"
        figure.add_vline(
            x=after[0] - 0.5, line={"color": OKABE_ITO[5], "width": 1.5, "dash": "dot"},
            annotation={"text": words, "font": {"color": OKABE_ITO[5]}}, annotation_position="top left",
        )  # fmt: skip
    figure.update_layout(yaxis={"rangemode": "tozero", "tickformat": "d"}, xaxis={"tickformat": "d"})
    return figure


def is_seam(below: tuple[str, int], above: tuple[str, int]) -> bool:
    """Whether two layers meet in a stack that did not follow each other in their model."""
    return above != (below[0], below[1] + 1)


def bars_of(rows: Iterable[ScoreRow], chosen: Sequence[str], metric: str, data: str) -> list[Bar]:
    """Pick the bars of one chart from stored scores."""
    return [
        Bar(chosen.index(row.model), row.model, row.value, row.low, row.high, row.n)
        for row in rows
        if row.model in chosen and row.metric == metric and row.data == data
    ]


def new_figure(height: int, x_title: str, y_title: str) -> Any:
    """Return an empty figure in the template that all charts share."""
    return _figure(height, x_title, y_title)


def _figure(height: int, x_title: str, y_title: str) -> Any:
    figure = go.Figure()
    thin_axis = {"gridwidth": 1, "gridcolor": _GREY, "zeroline": False, "automargin": True, "ticks": ""}
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "Inter, ui-sans-serif, system-ui, sans-serif", "size": 12, "color": "#7a8899"},
        margin={"l": 52, "r": 56, "t": 36, "b": 44},
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        xaxis={**thin_axis, "title": {"text": x_title}},
        yaxis={**thin_axis, "title": {"text": y_title}},
        showlegend=True,
        uirevision="same",
        modebar={"remove": ["lasso", "select", "autoscale"], "bgcolor": "rgba(0,0,0,0)"},
    )
    return figure


def _line(
    figure: Any,
    name: str,
    points: Sequence[Point],
    colour: str,
    *,
    markers: bool = False,
    second: bool = False,
) -> None:
    kept = thin(points)
    if not kept:
        return
    figure.add_scatter(
        x=[step for step, _ in kept],
        y=[value for _, value in kept],
        name=name,
        mode="lines+markers" if markers or len(kept) == 1 else "lines",
        line={"color": colour, "width": 1.5 if second else 2, "dash": "dot" if second else "solid"},
        connectgaps=False,
        yaxis="y2" if second else "y",
        hovertemplate="%{y:.3g}",
    )


def _whiskers(bars: Sequence[Bar]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [(bar.high - bar.value) if bar.high is not None else 0 for bar in bars],
        "arrayminus": [(bar.value - bar.low) if bar.low is not None else 0 for bar in bars],
        "color": "#7a8899",
        "thickness": 1.5,
        "width": 5,
        "visible": any(bar.low is not None for bar in bars),
    }


def _spell(bar: Bar, as_percent: bool) -> str:
    words = _plain(bar.value, as_percent)
    if bar.low is None or bar.high is None:
        return words
    return f"{words}, 95 % interval {_plain(bar.low, as_percent)} to {_plain(bar.high, as_percent)}"


def _plain(value: float, as_percent: bool) -> str:
    return f"{100 * value:.1f} %" if as_percent else f"{value:.3f}"


def _letter(place: int) -> str:
    return "ABCDEFGH"[place % 8]


def _on(place: int) -> str:
    return "#ffffff" if place % 8 in (0, 2, 5) else "#1b2430"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
