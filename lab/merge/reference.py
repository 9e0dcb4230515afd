"""A model as a recipe names it: `model[@revision][+adapter[@revision]]`, and where that is found.

Reads a published model's manifest to see which revision it is; knows no weight and no network.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import BadInput, NotFound
from lab.core.job import Shelf
from lab.models.publish import MANIFEST, read_manifest

_PART = r"[^@+]+"
_SPELLING = re.compile(
    rf"^(?P<model>{_PART})(?:@(?P<revision>{_PART}))?"
    rf"(?:\+(?P<adapter>{_PART})(?:@(?P<adapter_revision>{_PART}))?)?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_SHORTEST_COMMIT = 7


@dataclass(frozen=True)
class Reference:
    """A model, perhaps at one revision, perhaps with an adapter laid over it.

    Attributes:
        model: name or folder of the model.
        revision: which of its versions is meant.
        adapter: name or folder of an adapter of it.
        adapter_revision: which version of the adapter.
    """

    model: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    def __str__(self) -> str:
        """Spell it as recipes do."""
        return "+".join(
            f"{name}@{revision}" if revision else name
            for name, revision in ((self.model, self.revision), (self.adapter, self.adapter_revision))
            if name
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The model and the adapter, without revisions."""
        return (self.model, self.adapter) if self.adapter else (self.model,)


def parse(ref: str) -> Reference:
    """Take a reference apart; a text that is none is a name or folder as it stands."""
    match = _SPELLING.match(ref)
    return Reference(**match.groupdict()) if match else Reference(ref)


def find(ref: str, shelf: Shelf) -> Reference:
    """Return what a reference means: a folder that is spelled just so, or model, revision and adapter.

    Raises:
        BadInput: a model is not there, or not in the revision that is asked for.
    """
    reference = parse(ref)
    if reference != Reference(ref) and _is_there(ref, shelf):
        return Reference(ref)
    _check_revision(reference.model, reference.revision, shelf)
    if reference.adapter:
        _check_revision(reference.adapter, reference.adapter_revision, shelf)
    return reference


def revision_of(folder: Path) -> str | None:
    """Return the revision that a model folder is known to hold, or None.

    A catalog's model has it among the facts of its manifest, or in the folder that it was imported
    from; a folder of the hub's cache is named after it.
    """
    if (folder / MANIFEST).is_file():
        facts = read_manifest(folder).facts
        if isinstance(facts.get("revision"), str):
            return str(facts["revision"])
        name = Path(str(facts.get("origin", ""))).name
    else:
        name = folder.resolve().name
    return name if _COMMIT.match(name) else None


def _is_there(ref: str, shelf: Shelf) -> bool:
    try:
        shelf.model(ref)
    except NotFound:
        return False
    except BadInput:  # the catalog's: no model of that name
        return False
    return True


def _check_revision(name: str, wanted: str | None, shelf: Shelf) -> None:
    if wanted is None:
        return
    known = revision_of(shelf.model(name))
    if known == wanted or (known and len(wanted) >= _SHORTEST_COMMIT and known.startswith(wanted)):
        return
    raise BadInput(
        f"The recipe asks for {name} at revision {wanted!r}; "
        + (f"the lab has it at {known!r}." if known else "the lab doesn't know which revision it has."),
        "A pinned revision is the commit that the model's folder was imported from.",
        f"Import that revision (of a hub's cache, the folder snapshots/{wanted}) and name it here, "
        f"or take @{wanted} out to use {name} as it is.",
    )
