"""Backup and restore of a whole lab: its rows, its models and its datasets, to any place of fsspec's.

A backup is laid out as an object store is, with a snapshot of the rows beside it. Models never change, so
that a second backup to the same place copies only what is new, and older snapshots stay good.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput, NotFound
from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.database import Database
from lab.core.store.rows import DatasetRow, ModelRow
from lab.core.store.snapshot import load, prepare, rows_of, save
from lab.models.catalog import Catalog
from lab.models.hostcache import Borrower, HostCache
from lab.models.publish import ManifestFile, read_manifest
from lab.models.storeroom import Storeroom, dataset_key

POINTER = "newest.json"
SNAPSHOTS = "snapshots"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Tally:
    """What went over: rows by table, models, datasets; and, in words, what is listed but could not."""

    rows: dict[str, int]
    models: int
    datasets: int
    left_out: tuple[str, ...] = ()


def back_up(store: Store, settings: Settings, room: Storeroom, tell: Tell) -> Tally:
    """Copy a lab while it runs. The rows are of one moment; every file is hashed on its way.

    Args:
        store: the lab's rows.
        settings: where its folders are.
        room: where the backup goes; what an earlier backup left there is not copied again.
        tell: told what is copied.

    Raises:
        Unavailable: the database or the backup's place does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="lab-backup-") as folder:
        file = Path(folder) / "rows.jsonl"
        with file.open("w", encoding="utf-8") as out:
            counts = save(store.database, out)
        models, datasets = _listed(file)
        catalog = Catalog(store, settings)
        left_out = [words for row in models if (words := _copy_model(catalog, row, room, tell))]
        left_out += [words for row in datasets if (words := _copy_dataset(catalog, row, room))]
        _sign(room, file)
    return Tally(counts, len(models), len(datasets), tuple(left_out))


def restore(settings: Settings, room: Storeroom, tell: Tell, snapshot: str = "") -> Tally:
    """Bring a backup into an empty lab: files first, each checked against its manifest, then the rows.

    Args:
        settings: where the lab is to be; the database may be of another kind than the one backed up.
        room: where the backup is.
        tell: told what is copied.
        snapshot: the name of an older snapshot; the newest when empty.

    Raises:
        BadInput: there is a lab already, the backup is damaged, or there is none.
        Unavailable: the database or the backup's place does not answer.
    """
    settings.make_folders()
    database = Database(settings.database)
    with tempfile.TemporaryDirectory(prefix="lab-restore-") as folder:
        file = _fetch_snapshot(room, snapshot, Path(folder) / "rows.jsonl")
        with file.open(encoding="utf-8") as lines:
            prepare(database, lines)
        models, datasets = _listed(file)
        left_out = _Restorer(settings, room).bring(models, datasets, tell)
        with file.open(encoding="utf-8") as lines:
            counts = load(database, lines)
    database.close()
    return Tally(counts, len(models), len(datasets), left_out)


class _Restorer:
    """Fetches files from a backup to where a lab keeps them: its folders, or its object store."""

    def __init__(self, settings: Settings, room: Storeroom) -> None:
        self._from = HostCache(settings.model_copy(update={"cache_gb": 0.0}), room)
        self._store = Storeroom(settings.store_url) if settings.store_url else None

    def bring(self, models: list[ModelRow], datasets: list[DatasetRow], tell: Tell) -> tuple[str, ...]:
        """Fetch everything; return in words what the backup left out."""
        left_out = []
        for row in models:
            tell(f"model {row.name}")
            try:
                self._model(row)
            except NotFound as error:
                left_out.append(f"model {row.name}: {error.saw}")
        for data in datasets:
            try:
                self._dataset(data)
            except NotFound as error:
                left_out.append(f"dataset {data.name}: {error.saw}")
        return tuple(left_out)

    def _model(self, row: ModelRow) -> None:
        borrower = Borrower()
        folder = self._from.model(row, borrower)
        if self._store:
            self._store.put_model(folder, read_manifest(folder))
        borrower.give_back()

    def _dataset(self, row: DatasetRow) -> None:
        file = self._from.dataset(row, Borrower())
        if self._store:
            self._store.put_file(file, dataset_key(row), row.sha256)


def _listed(snapshot: Path) -> tuple[list[ModelRow], list[DatasetRow]]:
    with snapshot.open(encoding="utf-8") as lines:
        models = [ModelRow(**{**row, "parents": tuple(row["parents"])}) for row in rows_of(lines, "models")]
    with snapshot.open(encoding="utf-8") as lines:
        return models, [DatasetRow(**row) for row in rows_of(lines, "datasets")]


def _copy_model(catalog: Catalog, row: ModelRow, room: Storeroom, tell: Tell) -> str:
    """Copy a model; say in words why one that is listed can't be."""
    tell(f"model {row.name}")
    borrower = Borrower()
    try:
        folder = catalog.lent_to(borrower).model(row.name)
        manifest = read_manifest(folder)
        if manifest.sha256 != row.manifest_sha256:
            return f"model {row.name}: it was made anew while the backup was made."
        room.put_model(folder, manifest)
    except BadInput as error:  # deleted since the rows were read, or damaged
        return f"model {row.name}: {error.saw}"
    finally:
        borrower.give_back()
    return ""


def _copy_dataset(catalog: Catalog, row: DatasetRow, room: Storeroom) -> str:
    if room.has(dataset_key(row)):
        return ""
    try:
        room.put_file(catalog.dataset(row.name), dataset_key(row), row.sha256)
    except BadInput as error:
        return f"dataset {row.name}: {error.saw}"
    return ""


def _sign(room: Storeroom, file: Path) -> None:
    """Name the snapshot as the newest, after everything that it lists is there."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{sha256[:8]}.jsonl"  # a time for people, who choose by it
    room.put_file(file, f"{SNAPSHOTS}/{name}", sha256)
    signature = json.dumps({"name": name, "sha256": sha256}).encode()
    room.put_bytes(signature, f"{SNAPSHOTS}/{name}.sha256")
    room.put_bytes(signature, POINTER)


def _fetch_snapshot(room: Storeroom, name: str, target: Path) -> Path:
    try:
        key = f"{SNAPSHOTS}/{name}.sha256" if name else POINTER
        pointer: dict[str, Any] = json.loads(room.get_bytes(key))
        file = ManifestFile(target.name, 0, str(pointer["sha256"]))
        room.fetch_file(f"{SNAPSHOTS}/{pointer['name']}", file, target)
    except (NotFound, ValueError, KeyError) as error:
        if isinstance(error, BadInput) and not isinstance(error, NotFound):
            raise
        known = ", ".join(key.rpartition("/")[2] for key in room.keys(SNAPSHOTS) if key.endswith(".jsonl"))
        raise BadInput(
            f"There is no {f'snapshot {name!r}' if name else 'finished backup'} in {room.url}.",
            f"Snapshots there: {known or 'none'}.",
            "Name the place that `python -m lab backup` was given.",
        ) from None
    return target
