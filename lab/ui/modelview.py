"""Models as the pages show them: choices for lists, where one comes from in words, who may see it."""

from collections.abc import Iterable, Sequence

from lab.core.store import Store
from lab.core.store.rows import ModelRow
from lab.ui.services import Who
from lab.ui.transcript import Head
from lab.ui.words import listed

HOUSE = "lab"
"""Owner of what the lab itself brought, such as the starter model; everyone may use it."""


def visible(store: Store, who: Who) -> list[ModelRow]:
    """Return the models that somebody may see, oldest first: a visitor sees their own and the lab's."""
    rows = [row for row in store.models.list() if not who.is_visitor or row.owner in (who.name, HOUSE)]
    return sorted(rows, key=lambda row: row.created)


def names(rows: Iterable[ModelRow]) -> list[str]:
    """Return the names of these models."""
    return [row.name for row in rows]


def heads(rows: Iterable[ModelRow], chosen: Sequence[str]) -> list[Head]:
    """Return what stands over the columns of the chosen models; a deleted one keeps its name."""
    known = {row.name: row for row in rows}
    return [Head(name, origin(known[name]) if name in known else "no longer in the lab") for name in chosen]


def origin(row: ModelRow) -> str:
    """Say where a model comes from: how it was made, or else from whom."""
    return row.words or (f"from {listed(row.parents)}" if row.parents else row.kind)
