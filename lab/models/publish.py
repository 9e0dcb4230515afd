"""How a finished folder becomes a model of the lab: a manifest, one rename, and a janitor for what is left.

A folder is complete when its manifest.json is, because that is written last; it is published when
it stands under its name and the database lists it. Knows folders and manifests; knows no database.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, BinaryIO

from lab.core.errors import BadInput, Conflict, JobFailed
from lab.core.files import is_idle, sync
from lab.core.job import NewModel
from lab.core.store.rows import ModelRow
from lab.models.config import read_json
from lab.models.inspection import check_model_folder

MANIFEST = "manifest.json"
TRASH = ".trash"
_CHUNK_BYTES = 8 << 20
_LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "bitsandbytes")


@dataclass(frozen=True)
class ManifestFile:
    """One file of a model, by its path within the folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds and where it came from.

    Attributes:
        name, kind, parents, words, facts: as NewModel has them; facts completed from the files.
        files: every file but the manifest itself, sorted by path.
        spec_sha256: the recipe's name.
        job_id, attempt: who made it.
        versions: of the libraries that made it.
        sha256: of manifest.json itself; "" until it is written.
    """

    name: str
    kind: str
    parents: tuple[str, ...]
    words: str
    facts: Mapping[str, Any]
    files: tuple[ManifestFile, ...]
    spec_sha256: str
    job_id: str
    attempt: int
    versions: Mapping[str, str]
    sha256: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape a model."""
    versions = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def full_disk_is_failure(doing: str) -> Iterator[None]:
    """Turn "no space left" into a failed job that says what was being written.

    Raises:
        JobFailed: with the code `disk_full`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise JobFailed(
            "disk_full",
            f"The disk filled up while {doing}. Nothing half-written is listed. "
            "Delete models or jobs that you no longer need, then retry.",
        ) from error


def finish(
    new: NewModel,
    spec_sha256: str,
    job_id: str,
    attempt: int,
    versions: Mapping[str, str] | None = None,
    breathe: Callable[[], None] = lambda: None,
) -> Manifest:
    """Check a finished folder, force it to disk and write its manifest, after which nothing may change.

    Args:
        new: the folder and what it is.
        spec_sha256: the recipe's name.
        job_id: the job that made it.
        attempt: and which attempt.
        versions: of libraries; those of this process when None.
        breathe: called between chunks while files are hashed.

    Raises:
        BadInput: the folder is no usable model; a job that made it has a fault.
        JobFailed: the disk is full; no manifest is left then.
    """
    (new.folder / MANIFEST).unlink(missing_ok=True)
    with full_disk_is_failure(f"finishing {new.name}"):
        files = tuple(_seal(file, new, breathe) for file in _files_of(new.folder))
        manifest = Manifest(
            name=new.name,
            kind=new.kind,
            parents=tuple(new.parents),
            words=new.words,
            facts={**_facts(new.folder), **new.facts},
            files=files,
            spec_sha256=spec_sha256,
            job_id=job_id,
            attempt=attempt,
            versions=dict(library_versions() if versions is None else versions),
        )
        return _write(manifest, new.folder)


def place(folder: Path, target: Path) -> None:
    """Rename a finished folder to its place, whole or not at all, and make the rename durable.

    Where the same job's model stands there already (a crash came between the rename and the
    database), that one stays and `folder` is removed.

    Raises:
        Conflict: another model stands there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        if not _is_ours(folder, target):
            raise _taken(target.name)
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _taken(target.name) from None
        raise
    sync(target.parent)
    sync(folder.parent)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a published folder.

    Raises:
        BadInput: it is missing or no manifest.
    """
    raw = read_json(folder / MANIFEST, limit_bytes=16 << 20)
    try:
        files = tuple(ManifestFile(**file) for file in raw.pop("files"))
        parents = tuple(raw.pop("parents"))
        sha256 = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        return Manifest(**raw, files=files, parents=parents, sha256=sha256)
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{folder.name}/{MANIFEST} is no manifest: {error}.", "", "Import the model again."
        ) from None


def model_row(manifest: Manifest, owner: str) -> ModelRow:
    """Return the catalog's row for a finished model; the database sets `created`."""
    return ModelRow(
        name=manifest.name,
        kind=manifest.kind,
        owner=owner,
        parents=manifest.parents,
        words=manifest.words,
        facts=dict(manifest.facts),
        size_bytes=manifest.size_bytes,
        manifest_sha256=manifest.sha256,
        job_id=manifest.job_id,
        created=0.0,
    )


def to_trash(folder: Path, models_dir: Path) -> Path:
    """Take a folder out of sight in one rename; return where it went."""
    trash = models_dir / TRASH
    trash.mkdir(exist_ok=True)
    place_in_trash = trash / f"{folder.name}-{time.time_ns()}"
    folder.rename(place_in_trash)
    return place_in_trash


def put_aside(folder: Path, models_dir: Path) -> None:
    """Clear the place of a model of whatever lies there, where the folders are only copies of a store's."""
    if os.path.lexists(folder):
        to_trash(folder, models_dir)


def sweep(
    models_dir: Path,
    jobs_dir: Path,
    known_names: Collection[str],
    live_jobs: Collection[str],
    older_than: float,
) -> list[str]:
    """Tidy up after crashes: unlisted model folders to the trash, ended jobs' work folders away.

    A folder whose job still lives is left alone: that job will adopt it. Logs stay.

    Args:
        models_dir: the room of the models.
        jobs_dir: the room of the jobs.
        known_names: the models that the database lists.
        live_jobs: ids of jobs that have not ended.
        older_than: seconds that something must have been untouched for.

    Returns:
        The names of the model folders that went to the trash.
    """
    before = time.time() - older_than
    gone = []
    for folder in _old_folders(models_dir, before):
        if (
            folder.name not in known_names
            and not folder.name.startswith(".")
            and not _has_job(folder, live_jobs)
            and is_idle(folder)
        ):
            to_trash(folder, models_dir)
            gone.append(folder.name)
    for folder in _old_folders(models_dir / TRASH, before):
        if is_idle(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for job in _old_folders(jobs_dir, before):
        if job.name not in live_jobs:
            shutil.rmtree(job / "work", ignore_errors=True)
    return gone


def _facts(folder: Path) -> dict[str, Any]:
    """Check a model folder and describe it; a folder without any config is described by nothing."""
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return {}
    return check_model_folder(folder, tokenizer=False).as_json()


def _files_of(folder: Path) -> list[Path]:
    files = []
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise BadInput(
                f"{file.name} in {folder.name} is not a plain file.", "A model has plain files only."
            )
        if file.is_file():
            files.append(file)
    return files


def _seal(file: Path, new: NewModel, breathe: Callable[[], None]) -> ManifestFile:
    """Hash a file, unless the job that wrote it has, and force it to disk."""
    path = file.relative_to(new.folder).as_posix()
    with file.open("rb") as handle:
        known = new.digests.get(path)
        sha256 = known if known is not None else _sha256(handle, breathe)
        os.fsync(handle.fileno())
        return ManifestFile(path, os.fstat(handle.fileno()).st_size, sha256)


def _sha256(handle: BinaryIO, breathe: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    while chunk := handle.read(_CHUNK_BYTES):
        digest.update(chunk)
        breathe()
    return digest.hexdigest()


def _write(manifest: Manifest, folder: Path) -> Manifest:
    fields = asdict(manifest)
    del fields["sha256"]
    raw = json.dumps(fields, indent=1, sort_keys=True, allow_nan=False).encode()
    draft = folder / f".{MANIFEST}.draft"
    try:
        with draft.open("wb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        draft.rename(folder / MANIFEST)
        sync(folder)
    finally:
        draft.unlink(missing_ok=True)
    return Manifest(**{**vars(manifest), "sha256": hashlib.sha256(raw).hexdigest()})


def _is_ours(folder: Path, target: Path) -> bool:
    """Whether the folder at the target was made by the job that made `folder`, and is whole."""
    if target.is_symlink():
        return False
    try:
        there, here = read_manifest(target), read_manifest(folder)
    except BadInput:
        return False
    sizes = {file.path: file.size for file in there.files}
    is_whole = all(
        (target / path).is_file() and (target / path).stat().st_size == n for path, n in sizes.items()
    )
    return is_whole and (there.job_id, there.spec_sha256) == (here.job_id, here.spec_sha256)


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is already a model named {name!r}.",
        "Names are used once.",
        "Choose another name, or delete that model first.",
        field="name",
    )


def _old_folders(room: Path, before: float) -> list[Path]:
    if not room.is_dir():
        return []
    return [item for item in sorted(room.iterdir()) if item.is_dir() and item.stat().st_mtime < before]


def _has_job(folder: Path, live_jobs: Collection[str]) -> bool:
    try:
        return read_manifest(folder).job_id in live_jobs
    except BadInput:
        return False
