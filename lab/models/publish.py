"""How a finished folder becomes a model of the lab: a manifest, then one rename.

A folder is complete when its manifest.json is, because that is written last; it is published when
it stands under its name and the database lists it. Knows folders and manifests; knows no database.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, BinaryIO

from lab.core.errors import BadInput, Conflict, JobFailed
from lab.core.files import sync
from lab.core.job import NewModel
from lab.core.store.rows import ModelRow
from lab.models.carrying import carry
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


def place(folder: Path, target: Path, breathe: Callable[[], None] = lambda: None) -> None:
    """Bring a finished folder to its place, whole or not at all, and for good.

    It is renamed, or copied where its place is on another disk. Where the same job's model stands there
    already (a crash came between the rename and the database), that one stays and `folder` is removed.

    Args:
        folder: the finished folder.
        target: its place, named like the model.
        breathe: called between chunks of what takes time; may raise to give up.

    Raises:
        Conflict: another model stands there.
        JobFailed: the disk is full, or the folder is not the one that was finished.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        there = _made_by_the_same_job(folder, target)
        if there is None:
            raise _taken(target.name)
        if is_whole(target, there, breathe):
            shutil.rmtree(folder, ignore_errors=True)
            return
        to_trash(target, target.parent)
    try:
        with full_disk_is_failure(f"publishing {target.name}"):
            _move(folder, target, breathe)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _taken(target.name) from None
        raise
    sync(target.parent)
    sync(folder.parent)


def is_whole(folder: Path, manifest: Manifest, breathe: Callable[[], None] = lambda: None) -> bool:
    """Whether every file of a manifest is there, in its size and with its sha256."""
    for known in manifest.files:
        file = folder / known.path
        if file.is_symlink() or not file.is_file() or file.stat().st_size != known.size:
            return False
        with file.open("rb") as handle:
            if _sha256(handle, breathe) != known.sha256:
                return False
    return True


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


def _move(folder: Path, target: Path, breathe: Callable[[], None]) -> None:
    """Rename a folder, or carry it to the disk where its place is.

    Raises:
        OSError: as the disks say.
        JobFailed: the folder is not the one that was finished.
    """
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        files = [(file.path, file.sha256) for file in read_manifest(folder).files]
        try:
            carry(folder, target, files, breathe)
        except ValueError as changed:
            raise not_as_finished(target.name, str(changed)) from None


def not_as_finished(name: str, seen: str) -> JobFailed:
    """Return the failure of a job whose finished model was changed before it was published."""
    return JobFailed(
        "damaged",
        f"{seen} of the finished model {name!r} is not what was written. Nothing was published. "
        "A disk may be failing, or somebody changed the job's folder. Run it again.",
    )


def _made_by_the_same_job(folder: Path, target: Path) -> Manifest | None:
    """Return the manifest of what stands at the target if the job that made `folder` made that too."""
    if target.is_symlink():
        return None
    try:
        there, here = read_manifest(target), read_manifest(folder)
    except BadInput:
        return None
    return there if (there.job_id, there.spec_sha256) == (here.job_id, here.spec_sha256) else None


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is already a model named {name!r}.",
        "Names are used once.",
        "Choose another name, or delete that model first.",
        field="name",
    )
