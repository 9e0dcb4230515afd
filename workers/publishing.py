"""How a finished job's models reach the shelf exactly once, however often its process dies on the way.

Each model is sealed with its manifest, the whole shipment is written down, the folders are renamed into
place, and the caller commits. An attempt that finds a shipment written down begins at the renaming.
With an object store the folders are uploaded before the renaming, each under a key that nobody opens
until the commit names it.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.core.job import NewModel, Outcome
from lab.core.settings import Settings
from lab.core.store.rows import JobRow, ModelRow
from lab.models.hostcache import Borrower
from lab.models.publish import (
    MANIFEST,
    Manifest,
    finish,
    is_whole,
    model_row,
    not_as_finished,
    place,
    put_aside,
    read_manifest,
    to_trash,
)
from lab.models.storeroom import Storeroom, Watcher
from workers.inheriting import leaves_its_work

NOTE = "shipment.json"


@dataclass(frozen=True)
class Parcel:
    """One sealed model folder: its name, where it was built, and its manifest's sha256."""

    name: str
    folder: str
    manifest_sha256: str

    @classmethod
    def seal(cls, model: NewModel, row: JobRow, breathe: Callable[[], None]) -> "Parcel":
        """Write the manifest of a finished folder, after which nothing in it may change."""
        manifest = finish(model, row.spec_sha256, row.id, row.attempt, breathe=breathe)
        return cls(model.name, str(model.folder), manifest.sha256)

    def is_in(self, folder: Path) -> bool:
        """Whether this very model, by its manifest, is in a folder."""
        try:
            return read_manifest(folder).sha256 == self.manifest_sha256
        except BadInput:
            return False

    def is_whole_in(self, folder: Path, breathe: Callable[[], None]) -> bool:
        """Whether this very model is in a folder, each of its files as it was written."""
        return self.is_in(folder) and is_whole(folder, read_manifest(folder), breathe)


@dataclass(frozen=True)
class Shipment:
    """What a finished job hands over: sealed models, summary and scores."""

    parcels: tuple[Parcel, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    stopped_early: bool = False

    @classmethod
    def pack(cls, outcome: Outcome, row: JobRow, work: Path, breathe: Callable[[], None]) -> "Shipment":
        """Seal the models of an outcome and, where there are any, write the shipment down.

        Args:
            outcome: what the job returned.
            row: the job.
            work: its work folder, where the shipment is written down.
            breathe: called between chunks of hashing.
        """
        parcels = tuple(Parcel.seal(model, row, breathe) for model in outcome.models)
        shipment = cls(parcels, dict(outcome.summary), outcome.stopped_early)
        if parcels:
            _write_down(asdict(shipment), work / NOTE)
        return shipment

    @classmethod
    def left_by_an_earlier_attempt(
        cls, work: Path, shelf: Path, job_id: str = "", breathe: Callable[[], None] = lambda: None
    ) -> "Shipment | None":
        """Return the shipment that an attempt wrote down before it died, if all of it is there undamaged.

        Args:
            work: the job's work folder.
            shelf: the folder of models; what is damaged there and this job's is removed from it.
            job_id: the job.
            breathe: called between chunks while files are compared.
        """
        found = cls._written_down(work)
        if found is None:
            return None
        for parcel in found.parcels:
            places = (Path(parcel.folder), shelf / parcel.name)
            if not any(parcel.is_whole_in(place, breathe) for place in places):
                (work / NOTE).unlink()
                _clear_leftover(shelf / parcel.name, lambda manifest: manifest.job_id == job_id)
                return None
        return found

    @classmethod
    def take_back(cls, work: Path, shelf: Path) -> None:
        """Remove what a job that did not succeed has placed: nothing lists it, and its name is free again."""
        found = cls._written_down(work)
        for parcel in found.parcels if found else ():
            if parcel.is_in(shelf / parcel.name):
                shutil.rmtree(to_trash(shelf / parcel.name, shelf), ignore_errors=True)

    @classmethod
    def _written_down(cls, work: Path) -> "Shipment | None":
        note = work / NOTE
        if not note.exists():
            return None
        told = json.loads(note.read_text())
        parcels = tuple(Parcel(**parcel) for parcel in told["parcels"])
        return cls(parcels, told["summary"], told["stopped_early"])

    @property
    def scores(self) -> tuple[Mapping[str, Any], ...]:
        """The figures that the job measured, for the table of scores."""
        return tuple(self.summary.get("scores", ()))

    def upload(self, room: Storeroom, shelf: Path, borrower: Borrower) -> None:
        """Bring the models to the object store, and clear their places of this host's older copies.

        Args:
            room: the store.
            shelf: the folder of models of this host.
            borrower: told how it goes; makes sure between chunks that the job is still ours.

        Raises:
            JobFailed: the store does not answer.
        """
        for parcel in self.parcels:
            folder = Path(parcel.folder) if parcel.is_in(Path(parcel.folder)) else shelf / parcel.name
            manifest, done = read_manifest(folder), 0

            def told(count: int, name: str = parcel.name, total: int = manifest.size_bytes) -> None:
                nonlocal done
                done = min(done + count, total)
                borrower.tell(
                    done / max(total, 1), f"uploading {name} to the store, {done / max(total, 1):.0%}"
                )

            watcher = Watcher(told, borrower.breathe)
            borrower.patiently(partial(room.put_model, folder, manifest, watcher))
            if not parcel.is_in(shelf / parcel.name):
                put_aside(shelf / parcel.name, shelf)

    def place(
        self,
        shelf: Path,
        owner: str,
        breathe: Callable[[], None] = lambda: None,
        is_leftover: Callable[[Manifest], bool] = lambda _: False,
    ) -> list[ModelRow]:
        """Bring the folders to their places, those that are not there yet, and return their rows.

        Args:
            shelf: the folder of models.
            owner: whose they are.
            breathe: called between chunks where a disk has to be changed.
            is_leftover: tells from a manifest whether nobody wants what stands in a place any more.

        Raises:
            Conflict: another model has the name.
            JobFailed: a folder is not as it was sealed, or the disk is full.
        """
        rows = []
        for parcel in self.parcels:
            folder, target = Path(parcel.folder), shelf / parcel.name
            if not parcel.is_in(target):
                if not parcel.is_in(folder):
                    raise not_as_finished(parcel.name, MANIFEST)
                _clear_leftover(target, is_leftover)
                place(folder, target, breathe)
            rows.append(model_row(read_manifest(target), owner))
        return rows


def clear_after(row: JobRow, settings: Settings) -> None:
    """Remove the work folder of a job that has ended and, if it did not succeed, what it has placed.

    What can't be removed now is left to the janitor. Logs stay, and for a day the work of a job that may
    go on where it failed.
    """
    work = settings.jobs / row.id / "work"
    if row.state != "succeeded":
        with suppress(OSError):
            Shipment.take_back(work, settings.models)
    if leaves_its_work(row):
        with suppress(OSError):
            (work / NOTE).unlink(missing_ok=True)
        return
    shutil.rmtree(work, ignore_errors=True)


def _clear_leftover(target: Path, is_leftover: Callable[[Manifest], bool]) -> None:
    """Take a folder out of the way that its job left behind and that nobody will list."""
    if target.is_symlink():
        return
    try:
        manifest = read_manifest(target)
    except BadInput:
        return
    if is_leftover(manifest):
        to_trash(target, target.parent)


def _write_down(told: Mapping[str, Any], note: Path) -> None:
    draft = note.with_suffix(".draft")
    with draft.open("w") as file:
        json.dump(told, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(note)
