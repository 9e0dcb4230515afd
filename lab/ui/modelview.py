"""Models as the pages show them: choices for lists, where one comes from in words, who may see it."""

import re
from collections.abc import Iterable, Sequence

from lab.core.store import Store
from lab.core.store.rows import ModelRow
from lab.ui.services import Who
from lab.ui.transcript import Head
from lab.ui.widgets import esc
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


def bases(rows: Iterable[ModelRow]) -> list[str]:
    """Return the names of the full models, which a fine-tune can start from."""
    return [row.name for row in rows if row.kind != "adapter"]


def base_of_adapters(rows: Iterable[ModelRow], chosen: Sequence[str | None]) -> str:
    """Return the base that all chosen models are adapters of; "" where they are not."""
    known = {row.name: row for row in rows}
    models = [known[name] for name in chosen if name and name in known]
    bases = {row.parents[0] if row.kind == "adapter" and row.parents else "" for row in models}
    return bases.pop() if len(bases) == 1 else ""


def heads(rows: Iterable[ModelRow], chosen: Sequence[str]) -> list[Head]:
    """Return what stands over the columns of the chosen models; a deleted one keeps its name."""
    known = {row.name: row for row in rows}
    return [Head(name, origin(known[name]) if name in known else "no longer in the lab") for name in chosen]


def origin(row: ModelRow) -> str:
    """Say where a model comes from: how it was made, or else from whom."""
    return row.words or (f"from {listed(row.parents)}" if row.parents else row.kind)


def layers(name: str | None, rows: Iterable[ModelRow]) -> int:
    """Return how many layers a model has; an adapter has those of what it stands on. 0 is unknown."""
    known = {row.name: row for row in rows}
    row = known.get(name or "")
    while row is not None and row.kind == "adapter" and row.parents:
        row = known.get(row.parents[0])
    return int(row.facts.get("layers") or 0) if row else 0


def licences(row: ModelRow, rows: Iterable[ModelRow]) -> str:
    """Say under which licences a model stands: its own, and those that its ancestors hand down."""
    known = {one.name: one for one in rows}
    found: dict[str, list[str]] = {}
    waiting, done = [row.name], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in done:
            continue
        done.add(name)
        one = known.get(name)
        if one is None:
            found.setdefault("unknown", []).append(f"{name}, deleted")
            continue
        if licence := str(one.facts.get("licence") or ""):
            found.setdefault(licence, []).append(name)
        elif not one.parents:
            found.setdefault("unknown", []).append(name)
        waiting += one.parents
    own = [licence for licence, names in found.items() if names == [row.name]]
    return "; ".join(
        licence if licence in own else f"{licence} (from {listed(names)})" for licence, names in found.items()
    )


def name_of(stem: str) -> str:
    """Turn a file's name, without its ending, into a name that the lab takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:48] or "examples"


def compare_link(row: ModelRow, words: str = "Compare with its parents", look: str = "") -> str:
    """Return a link to the Compare page with a model and its parents chosen."""
    chosen = ",".join(dict.fromkeys([*row.parents[-3:], row.name]))
    return f'<a class="lab-button {look}" href="?view=compare&amp;models={esc(chosen)}">{esc(words)}</a>'


def result_links(row: ModelRow) -> str:
    """Return what to do next with a model that has just been made."""
    train = (
        f'<a class="lab-button lab-primary" href="?view=finetune&amp;base={esc(row.name)}">Train it on</a>'
        if row.kind == "upscaled"  # right after the cut it is worse than its base
        else ""
    )
    return train + compare_link(row, look="" if train else "lab-primary") + open_link(row.name)


def open_link(name: str) -> str:
    """Return a button that opens a model's card."""
    return f'<a class="lab-button" href="?view=models&amp;model={esc(name)}">Open {esc(name)}</a>'
