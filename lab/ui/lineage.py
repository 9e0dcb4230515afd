"""Where a model came from: its ancestors, its descendants, what each was to the next, and their places.

Pure functions on rows. Every node has a line of its own, so that its name can stand beside it on a
phone too; generations go down the page, and a parent holds its own lane down to its last child.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.core.store.rows import DatasetRow, ModelRow
from lab.ui.words import count, size

MOST_SHOWN = 14
"""Models and datasets in one picture; what lies further away is counted, not drawn."""

DATA = "data"
"""The kind of a dataset, and its role."""

_ROLES = {"base_model": "base", "model": "base", "models": "input", "sources": "input"}
_DATA_MARK = "data:"


@dataclass(frozen=True)
class Edge:
    """One step of descent.

    Attributes:
        parent, child: names.
        role: what the parent was to the child: base, input, data...
        detail: more on it, such as its weight; "" where there is none.
    """

    parent: str
    child: str
    role: str
    detail: str = ""

    @property
    def words(self) -> str:
        """The role with its detail."""
        return f"{self.role}, {self.detail}" if self.detail else self.role


@dataclass(frozen=True)
class Node:
    """One model or dataset of a family.

    Attributes:
        name: its name; a dataset's begins with "data:", so that a model may have the same name.
        kind: base, adapter, merge... or data.
        about: method and size in a few words, for the line below the name.
        hover: more of it, one line each.
        is_gone: it was deleted; only its name is left.
    """

    name: str
    kind: str
    about: str = ""
    hover: tuple[str, ...] = ()
    is_gone: bool = False

    @property
    def label(self) -> str:
        """The name as people know it."""
        return label_of(self.name)


@dataclass(frozen=True)
class Family:
    """A chosen model with its ancestors and descendants; `more` counts those left out of the picture."""

    chosen: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    more_above: int = 0
    more_below: int = 0


@dataclass
class Place:
    """Where a node stands: its line from the top, and its lane from the left."""

    line: int
    lane: int = 0


@dataclass(frozen=True)
class Ties:
    """How models hang together: for every name, the edges to its parents and to its children."""

    parents: dict[str, list[Edge]] = field(default_factory=dict)
    children: dict[str, list[Edge]] = field(default_factory=dict)


def edges_into(row: ModelRow, spec: Mapping[str, Any], datasets: Sequence[str] = ()) -> list[Edge]:
    """Return what a model was made from, with the role that its recipe gives each parent.

    Args:
        row: the model.
        spec: the stored spec of the job that made it; empty where there is none.
        datasets: what that job read besides models.
    """
    found: dict[str, Edge] = {}
    for parent in dict.fromkeys(row.parents):
        uses = list(_uses(spec, parent, ""))
        roles = list(dict.fromkeys(role for role, _ in uses)) or ["parent"]
        details = [detail for _, detail in uses if detail]
        found[parent] = Edge(parent, row.name, " and ".join(roles), ", ".join(details))
    used = [Edge(data_key(name), row.name, DATA) for name in dict.fromkeys(datasets)]
    return [*found.values(), *used]


def data_key(name: str) -> str:
    """Return the name under which a dataset stands among models."""
    return _DATA_MARK + name


def label_of(name: str) -> str:
    """Return the name of a node as people know it."""
    return name.removeprefix(_DATA_MARK)


def tie(edges: Iterable[Edge]) -> Ties:
    """Sort edges by both of their ends."""
    ties = Ties()
    for edge in edges:
        ties.parents.setdefault(edge.child, []).append(edge)
        ties.children.setdefault(edge.parent, []).append(edge)
    return ties


def family(chosen: str, nodes: Mapping[str, Node], edges: Iterable[Edge], most: int = MOST_SHOWN) -> Family:
    """Return a model with its ancestors and descendants, the nearest ones where there are too many.

    Args:
        chosen: the model that the picture is about.
        nodes: what is known, by name; a parent that is not in it was deleted.
        edges: every step of descent.
        most: how many to keep; ancestors come first.
    """
    ties = tie(edges)
    above, below = _nearest(chosen, ties, up=True), _nearest(chosen, ties, up=False)
    kept_above = above[: most - 1]
    kept_below = below[: most - 1 - len(kept_above)]
    kept = {chosen, *kept_above, *kept_below}
    inside = tuple(
        edge for name in sorted(kept) for edge in ties.parents.get(name, ()) if edge.parent in kept
    )
    shown = tuple(nodes.get(name) or _gone(name) for name in sorted(kept))
    return Family(chosen, shown, inside, len(above) - len(kept_above), len(below) - len(kept_below))


def data_node(row: DatasetRow) -> Node:
    """Return the node of a dataset: how many rows it has, and of what file."""
    rows = f"{row.facts['rows']:,} rows" if isinstance(row.facts.get("rows"), int) else ""
    hover = [f"dataset, {rows}" if rows else "dataset", str(row.facts.get("origin") or "")]
    about = " · ".join(part for part in (DATA, rows) if part)
    return Node(data_key(row.name), DATA, about, tuple(one for one in hover if one))


def model_node(row: ModelRow, scores: Sequence[str] = ()) -> Node:
    """Return the node of a model: its kind, method, size, and its scores in words."""
    parameters, method = row.facts.get("parameters"), row.facts.get("method", "")
    figures = [f"{count(parameters)} parameters" if parameters else "", size(row.size_bytes)]
    about = [row.kind if not method or method == row.kind else f"{row.kind}, {method}"]
    about += [count(parameters)] if parameters else []
    hover = [row.words or about[0], " · ".join(part for part in figures if part), *scores]
    return Node(row.name, row.kind, " · ".join(about), tuple(hover))


def layout(one: Family) -> dict[str, Place]:
    """Give every node its line and its lane.

    Parents stand above their children, a dataset just above the first that used it. A lane is held
    from a node down to its last child, so that no line runs through a node that it has no part in.
    """
    ties = tie(one.edges)
    ages = _generations(one, ties)
    order = sorted(one.nodes, key=lambda node: (ages[node.name], node.kind == DATA, node.name))
    order = _data_beside_models(order, ties)
    first = 1 if one.more_above else 0
    places = {node.name: Place(line) for line, node in enumerate(order, first)}
    busy: list[int] = []  # for every lane, the line down to which it is held
    for node in order:
        here = places[node.name]
        least = max((places[edge.parent].lane + 1 for edge in ties.parents.get(node.name, ())), default=0)
        last = max((places[edge.child].line for edge in ties.children.get(node.name, ())), default=here.line)
        here.lane = next(
            (lane for lane in range(least, len(busy)) if busy[lane] < here.line), max(least, len(busy))
        )
        busy.extend([-1] * (here.lane + 1 - len(busy)))
        busy[here.lane] = last
    return places


def _data_beside_models(order: Sequence[Node], ties: Ties) -> list[Node]:
    """Move every dataset to just above the first model that used it."""
    data = {node.name: node for node in order if node.kind == DATA}
    moved: dict[str, Node] = {}
    for node in order:
        if node.kind != DATA:
            used = [edge.parent for edge in ties.parents.get(node.name, ()) if edge.parent in data]
            moved |= {name: data[name] for name in used if name not in moved}
            moved[node.name] = node
    return list({**moved, **data}.values())


def _generations(one: Family, ties: Ties) -> dict[str, int]:
    """Return for every node the length of the longest way down to it; a circle is cut where it closes."""
    ages: dict[str, int] = {}

    def age(name: str, seen: frozenset[str]) -> int:
        if name not in ages:
            parents = [edge.parent for edge in ties.parents.get(name, ()) if edge.role != DATA]
            ages[name] = 1 + max((age(up, seen | {name}) for up in parents if up not in seen), default=-1)
        return ages[name]

    return {node.name: age(node.name, frozenset({node.name})) for node in one.nodes}


def _nearest(chosen: str, ties: Ties, *, up: bool) -> list[str]:
    """Return the ancestors (up) or descendants of a model, the nearest first."""
    found: list[str] = []
    edge = [chosen]
    while edge:
        step: list[str] = []
        for name in edge:
            near = ties.parents.get(name, ()) if up else ties.children.get(name, ())
            step += [one.parent if up else one.child for one in near]
        edge = [name for name in dict.fromkeys(step) if name not in found and name != chosen]
        found += edge
    return found


def _uses(value: Any, parent: str, key: str) -> Iterable[tuple[str, str]]:
    """Find where a recipe names a parent: the role that the key says, and its weight or layers."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            if inside == parent:
                role = key if name == "model" and key else name
                yield _ROLES.get(role, role.replace("_", " ")), _detail(value)
            else:
                yield from _uses(inside, parent, name)
    elif isinstance(value, list | tuple):
        for inside in value:
            if inside == parent:
                yield _ROLES.get(key, key.replace("_", " ").removesuffix("s")), ""
            else:
                yield from _uses(inside, parent, key)


def _detail(part: Mapping[str, Any]) -> str:
    layers = part.get("layer_range")
    if layers:
        return f"layers {layers[0]} to {layers[1]}"
    parameters = part.get("parameters")
    weight = parameters.get("weight") if isinstance(parameters, Mapping) else part.get("weight")
    if isinstance(weight, int | float):
        return f"weight {weight:g}"
    return "weights by layer" if weight is not None else ""


def _gone(name: str) -> Node:
    kind = DATA if name.startswith(_DATA_MARK) else "deleted"
    return Node(
        name, kind, f"{kind}, deleted" if kind == DATA else kind, ("no longer in the lab",), is_gone=True
    )
