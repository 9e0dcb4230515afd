"""The models of the lab by name: their folders, their facts, and who came from whom.

A model is what the database lists; its folder must be there and carry the manifest that the row
names. A folder without a row is never shown; a row without its folder is shown as missing. With an
object store the folders of a host are its cache, and are fetched when they are asked for.
"""

import copy
import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from lab.core.errors import NotFound, Unavailable
from lab.core.files import is_idle
from lab.core.settings import Settings
from lab.core.store.rows import DatasetRow, ModelRow
from lab.models.hostcache import Borrower, HostCache
from lab.models.publish import MANIFEST, read_manifest, to_trash
from lab.models.storeroom import Storeroom, dataset_key, key_of

if TYPE_CHECKING:
    from lab.core.store import Store


@dataclass(frozen=True)
class CatalogEntry:
    """A listed model.

    Attributes:
        row: what the database knows of it.
        folder: where its files are.
        fault: why it can't be used, in words; "" when it can.
        children: names of the models that were made from it.
    """

    row: ModelRow
    folder: Path
    fault: str
    children: tuple[str, ...]

    @property
    def is_usable(self) -> bool:
        """Whether its folder is there, with the manifest that the row names."""
        return not self.fault


@dataclass(frozen=True)
class Link:
    """One step of descent: `child` was made from `parent`."""

    parent: str
    child: str


class Catalog:
    """Finds models and datasets by name, never by path; the pages' and the workers' shelf.

    Args:
        store: lists them.
        settings: says where their folders are.

    Raises:
        BadInput: the object store's URL can't be used.
    """

    def __init__(self, store: "Store", settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._cache = HostCache(settings, Storeroom(settings.store_url)) if settings.store_url else None
        self._borrower = Borrower()
        self._is_for_checks = False

    @property
    def room(self) -> Storeroom | None:
        """The object store, where the lab has one."""
        return self._cache.room if self._cache else None

    def lent_to(self, borrower: Borrower) -> "Catalog":
        """Return the same shelf for somebody who is told of downloads and holds what they opened."""
        lent = copy.copy(self)
        lent._borrower = borrower
        return lent

    def for_checks(self) -> "Catalog":
        """Return the same shelf for somebody who reads configs and headers only: no weights are fetched."""
        narrow = copy.copy(self)
        narrow._is_for_checks = True
        return narrow

    def model(self, ref: str) -> Path:
        """Return the folder of a model.

        Raises:
            UnknownName: there is no such model; the nearest name is suggested.
            NotFound: it is listed but its folder is missing or was changed, or the object store lacks it.
            BadInput: a file in the object store is damaged.
            JobFailed, Unavailable: the disk is full, or the object store does not answer.
        """
        row = self._store.models.get(ref)
        if self._cache is not None:
            find = self._cache.outline if self._is_for_checks else self._cache.model
            return find(row, self._borrower)
        if fault := self._fault(row) or self._loss(row):
            raise NotFound(
                fault, "A model's folder stays as it was published.", "Delete the model and make it again."
            )
        return self._folder(row)

    def dataset(self, ref: str) -> Path:
        """Return the JSONL file of a dataset.

        Raises:
            UnknownName: there is no such dataset; the nearest name is suggested.
            NotFound: it is listed but its file is gone.
        """
        row = self._store.datasets.get(ref)
        if self._cache is not None:
            return self._cache.dataset(row, self._borrower)
        name = row.name
        file = self._settings.datasets / f"{name}.jsonl"
        if not file.is_file():
            raise NotFound(f"The file of the dataset {name!r} is gone.", "", "Delete it and upload it again.")
        return file

    def free_disk_bytes(self) -> int:
        """Return the bytes that a job may fill: on the fullest of the lab's disks, less the reserve."""
        rooms = (self._settings.data, self._settings.models, self._settings.jobs)
        free = min(shutil.disk_usage(room).free for room in rooms if room.is_dir())
        return max(0, free - (self._settings.disk_reserve_mb << 20))

    def memory_bytes(self) -> int:
        """Return the memory of the largest device that jobs run on; of this machine while no worker told."""
        largest = self._store.devices.largest()
        return largest.total_bytes if largest else int(psutil.virtual_memory().total)

    def devices_together(self) -> int:
        """Return how many devices one job may have at once: those of the host that has the most."""
        return self._store.devices.together()

    def get(self, name: str) -> CatalogEntry:
        """Return one listed model.

        Raises:
            UnknownName: there is none of that name; the nearest is suggested.
        """
        row = self._store.models.get(name)
        return next(entry for entry in self.list() if entry.row.name == row.name)

    def lineage(self, name: str | None = None) -> list[Link]:
        """Return who came from whom: of all models, or of one with all its ancestors and descendants.

        A parent that was deleted still has its links.
        """
        links = [
            Link(parent, row.name)
            for row in reversed(self._store.models.list())
            for parent in dict.fromkeys(row.parents)
        ]
        if name is None:
            return links
        above, below = _reach(name, links, up=True), _reach(name, links, up=False)
        return [link for link in links if link.child in above or link.parent in below]

    def delete(self, name: str) -> None:
        """Delete a model: it leaves the list and its folder the disk. A job that has it open goes on.

        Raises:
            UnknownName: there is none of that name.
        """
        row = self._store.models.get(name)
        folder = self._folder(row)
        self._store.models.delete(name)
        if folder.is_dir():
            with suppress(OSError):  # a disk that can't be written now: the janitor comes by again
                gone = to_trash(folder, self._settings.models)
                if is_idle(gone):
                    shutil.rmtree(gone, ignore_errors=True)
        self._remove_from_store(key_of(row))

    def keep_dataset(self, row: DatasetRow, file: Path) -> None:
        """Bring the file of a dataset, before it is listed, to where every host finds it.

        Raises:
            Unavailable: the object store does not answer.
        """
        if self._cache is not None:
            self._cache.room.put_file(file, dataset_key(row), row.sha256)

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset: it leaves the list and its file the disk.

        Raises:
            UnknownName: there is none of that name.
        """
        row = self._store.datasets.get(name)
        self._store.datasets.delete(name)
        (self._settings.datasets / f"{name}.jsonl").unlink(missing_ok=True)
        self._remove_from_store(dataset_key(row))

    def list(self) -> list[CatalogEntry]:
        """Return every listed model, newest first."""
        rows = self._store.models.list()
        children: dict[str, tuple[str, ...]] = {}
        for row in reversed(rows):
            for parent in dict.fromkeys(row.parents):
                children[parent] = (*children.get(parent, ()), row.name)
        return [
            CatalogEntry(row, self._folder(row), self._fault(row), children.get(row.name, ())) for row in rows
        ]

    def _remove_from_store(self, key: str) -> None:
        """Remove what is no longer listed; the janitor does it when the store does not answer now."""
        if self._cache is not None:
            with suppress(Unavailable):
                self._cache.room.remove(key)

    def _folder(self, row: ModelRow) -> Path:
        return self._settings.models / row.name

    def _loss(self, row: ModelRow) -> str:
        """Say which file of a model is not as its manifest has it, by its size; "" when all are."""
        folder = self._folder(row)
        for known in read_manifest(folder).files:
            file = folder / known.path
            if file.is_symlink() or not file.is_file():
                return f"The file {known.path} of {row.name!r} is missing."
            if file.stat().st_size != known.size:
                return f"The file {known.path} of {row.name!r} is not the one that was published."
        return ""

    def _fault(self, row: ModelRow) -> str:
        if self._cache is not None:
            return ""  # fetched and checked when it is opened
        folder = self._folder(row)
        manifest = folder / MANIFEST
        if folder.is_symlink() or not folder.is_dir():
            return f"The folder of {row.name!r} is missing."
        if not manifest.is_file():
            return f"The folder of {row.name!r} has lost its manifest."
        if hashlib.sha256(manifest.read_bytes()).hexdigest() != row.manifest_sha256:
            return f"The manifest of {row.name!r} is not the one that was published."
        return ""


class PathShelf:
    """The command line's shelf: a folder or file by its path, or else a name of the catalog.

    Args:
        open_catalog: opens what knows the names, at the first name; None when there is no lab to ask.
        out: where results are written, to tell the free disk.
    """

    def __init__(self, open_catalog: Callable[[], Catalog] | None, out: Path) -> None:
        self._open_catalog = open_catalog
        self._out = out

    @cached_property
    def _catalog(self) -> Catalog | None:
        return self._open_catalog() if self._open_catalog else None

    def model(self, ref: str) -> Path:
        """Return the folder of a model.

        Raises:
            NotFound: it is neither a folder nor a name of the catalog.
        """
        path = expanded(ref)
        if path.is_dir():
            return path
        if "/" not in ref and self._catalog is not None:
            return self._catalog.model(ref)
        raise _no_such("model", "folder", ref)

    def dataset(self, ref: str) -> Path:
        """Return the file of a dataset.

        Raises:
            NotFound: it is neither a file nor a name of the catalog.
        """
        path = expanded(ref)
        if path.is_file():
            return path
        if "/" not in ref and self._catalog is not None:
            return self._catalog.dataset(ref)
        raise _no_such("dataset", "file", ref)

    def free_disk_bytes(self) -> int:
        """Return the bytes free where results are written."""
        place = next(folder for folder in (self._out, *self._out.absolute().parents) if folder.is_dir())
        return shutil.disk_usage(place).free

    def memory_bytes(self) -> int:
        """Return the memory of this machine, in bytes."""
        return int(psutil.virtual_memory().total)

    def devices_together(self) -> int:
        """Return 1: a command that is given a place to write to computes on one device."""
        return 1


def expanded(path: str) -> Path:
    """Return a path with ~ replaced by the home folder; one of nobody we know stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _no_such(what: str, place: str, ref: str) -> NotFound:
    return NotFound(
        f"{ref!r} is no {place} and no {what} of the lab.",
        f"A {what} is a {place}'s path or a name on the Models page.",
        "Check the spelling and where you run the command.",
    )


def _reach(name: str, links: list[Link], *, up: bool) -> set[str]:
    """Return a model with all its ancestors (up) or descendants (down)."""
    found, edge = {name}, {name}
    while edge:
        step = (
            {link.parent for link in links if link.child in edge}
            if up
            else {link.child for link in links if link.parent in edge}
        )
        edge = step - found
        found |= edge
    return found
