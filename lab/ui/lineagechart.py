"""The picture of a family of models: lanes and lines, as a Plotly figure."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from lab.ui.charts import OKABE_ITO
from lab.ui.lineage import DATA, Edge, Family, Node, Place, label_of, layout

LINE_HEIGHT = 40

_COLOURS = {
    "base": OKABE_ITO[0], "adapter": OKABE_ITO[2], "tuned": OKABE_ITO[4],
    "merge": OKABE_ITO[1], "upscaled": OKABE_ITO[3], DATA: OKABE_ITO[7],
}  # fmt: skip
_GREY = OKABE_ITO[7]
_LONGEST = 30
_TARGETS = 14


def draw(one: Family) -> Any:
    """Draw a family as lanes and lines; a click on a name tells the page which."""
    places = layout(one)
    lanes = 1 + max(place.lane for place in places.values())
    span = max(16.0, (lanes + 0.5) / 0.36)
    figure = go.Figure()
    by_name = {node.name: node for node in one.nodes}
    for edge in one.edges:
        _draw_edge(figure, edge, places[edge.parent], places[edge.child], by_name[edge.parent])
    _draw_dots(figure, one, places)
    column = lanes - 1 + max(0.8, 0.05 * span)  # clear of the last dot, however narrow the lanes
    _draw_names(figure, one, places, column)
    _draw_targets(figure, one, places, column, span)
    lines = len(places) + bool(one.more_above) + bool(one.more_below)
    _draw_left_out(figure, one, column, lines - 1)
    hidden = {"visible": False, "fixedrange": True}
    figure.update_layout(
        template="none",
        height=LINE_HEIGHT * lines + 8,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "Inter, ui-sans-serif, system-ui, sans-serif", "size": 13},
        margin={"l": 10, "r": 0, "t": 4, "b": 4},
        showlegend=False,
        hovermode="closest",
        hoverdistance=26,
        dragmode=False,
        xaxis={**hidden, "range": [-0.6, span - 0.6]},
        yaxis={**hidden, "range": [lines - 0.5, -0.5]},
    )
    return figure


def shorten(name: str, longest: int = _LONGEST) -> str:
    """Return a name with its middle left out where it is too long: its start and its end tell most."""
    if len(name) <= longest:
        return name
    tail = longest // 3
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def _draw_edge(figure: Any, edge: Edge, start: Place, end: Place, parent: Node) -> None:
    x, y = start.lane, end.line
    turn = [
        (x, start.line),
        (x, y - 0.5),
        (x + 0.07, y - 0.2),
        (x + 0.25, y - 0.05),
        (x + 0.5, y),
        (end.lane, y),
    ]
    words = f"{_plain(label_of(edge.parent))}<br>{_plain(edge.words)} of {_plain(edge.child)}<extra></extra>"
    figure.add_scatter(
        x=[point[0] for point in turn],
        y=[point[1] for point in turn],
        mode="lines",
        line={
            "color": _colour(parent),
            "width": 2,
            "dash": "dot" if edge.role == DATA or parent.is_gone else "solid",
        },
        opacity=0.75,
        hovertemplate=words,
    )


def _draw_dots(figure: Any, one: Family, places: Mapping[str, Place]) -> None:
    figure.add_scatter(
        x=[places[node.name].lane for node in one.nodes],
        y=[places[node.name].line for node in one.nodes],
        mode="markers",
        marker={
            "color": [_colour(node) for node in one.nodes],
            "size": [17 if node.name == one.chosen else 12 for node in one.nodes],
            "symbol": [_symbol(node) for node in one.nodes],
            "opacity": 1,
            "line": {"width": 2, "color": [_colour(node) for node in one.nodes]},
        },
        customdata=[node.name for node in one.nodes],
        hovertext=[_hover(node) for node in one.nodes],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )


def _draw_names(figure: Any, one: Family, places: Mapping[str, Place], column: float) -> None:
    """Write two lines a node: its name, and below it what it is; fainter, and fainter still when gone."""
    for shift, opacity, fontsize, words in (
        (-0.18, 1.0, 13, _name_words(one)),
        (0.22, 0.72, 12, [node.about for node in one.nodes]),
    ):
        figure.add_scatter(
            x=[column] * len(one.nodes),
            y=[places[node.name].line + shift for node in one.nodes],
            mode="text",
            text=words,
            textposition="middle right",
            textfont={
                "size": fontsize,
                "color": [
                    f"rgba(86,101,117,{min(opacity, 0.7) if node.is_gone else opacity})" for node in one.nodes
                ],
            },
            hoverinfo="skip",
            cliponaxis=False,
        )


def _draw_targets(figure: Any, one: Family, places: Mapping[str, Place], column: float, end: float) -> None:
    """Make the whole line of a node answer to the pointer, not its dot alone."""
    step = (end - column) / _TARGETS
    spots = [(column + step * number, node) for node in one.nodes for number in range(_TARGETS)]
    figure.add_scatter(
        x=[x for x, _ in spots],
        y=[places[node.name].line for _, node in spots],
        mode="markers",
        marker={"size": 1, "opacity": 0},
        customdata=[node.name for _, node in spots],
        hovertext=[_hover(node) for _, node in spots],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _draw_left_out(figure: Any, one: Family, column: float, last: int) -> None:
    counted = (
        (one.more_above, 0, "further up that these came from"),
        (one.more_below, last, "further down that were made from these"),
    )
    for more, line, words in counted:
        if more:
            figure.add_scatter(
                x=[column], y=[line], mode="text", text=[f"and {more} more {words}"], cliponaxis=False,
                textposition="middle right", hoverinfo="skip",
                textfont={"size": 12, "color": "rgba(86,101,117,.8)"},
            )  # fmt: skip


def _name_words(one: Family) -> list[str]:
    names = [shorten(node.label) for node in one.nodes]
    return [
        f"<b>{name}</b>" if node.name == one.chosen else name
        for node, name in zip(one.nodes, names, strict=True)
    ]


def _hover(node: Node) -> str:
    return "<br>".join([f"<b>{_plain(node.label)}</b>", *[_plain(line) for line in node.hover]])


def _plain(text: str) -> str:
    """Take out what Plotly would read as markup: names and words come from outside."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _symbol(node: Node) -> str:
    shape = "diamond" if node.kind == DATA else "circle"
    return f"{shape}-open" if node.is_gone else shape


def _colour(node: Node) -> str:
    return _GREY if node.is_gone else _COLOURS.get(node.kind, OKABE_ITO[5])
