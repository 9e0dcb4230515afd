"""What one host keeps of an object store: whole models, fetched once, checked, evicted when room is short.

A model's folder lies under its name as everywhere. Who uses it holds a lock on it, which ends with its
process; what is held is never evicted. Knows no database.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from lab.core.errors import BadInput, JobFailed, Unavailable
from lab.core.files import is_idle, sync, try_lock
from lab.core.settings import Settings
from lab.core.store.rows import DatasetRow, ModelRow
from lab.models.headers import HEADER_LIMIT
from lab.models.publish import MANIFEST, Manifest, ManifestFile, read_manifest, to_trash
from lab.models.storeroom import Storeroom, Watcher, dataset_key, key_of, model_key

INCOMING, LOCKS = ".incoming", ".locks"
LOCK_PAUSE_SECONDS = 0.1
STORE_PAUSE_SECONDS = 2.0
WHOLE_BYTES = 1 << 20
"""Weights larger than this are left out of an outline, but for their headers."""

T = TypeVar("T")


@dataclass
class Borrower:
    """Somebody who opens models of this host's cache, and holds them until they are given back.

    Attributes:
        tell: told how far a download is, from 0 to 1, in words.
        breathe: called between chunks and while waiting; may raise to give up.
        patience: seconds for which a store that does not answer is asked again.
    """

    tell: Callable[[float, str], None] = lambda *_: None
    breathe: Callable[[], None] = lambda: None
    patience: float = 0.0
    _held: dict[tuple[int, int], int] = field(default_factory=dict)

    def hold(self, folder: Path) -> None:
        """Keep a folder from being evicted."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        about = os.fstat(handle)
        before = self._held.pop((about.st_dev, about.st_ino), None)
        self._held[about.st_dev, about.st_ino] = handle
        if before is not None:
            os.close(before)

    def give_back(self) -> None:
        """Let go of everything."""
        while self._held:
            os.close(self._held.popitem()[1])

    def patiently(self, do: Callable[[], T]) -> T:
        """Ask a store until it answers or patience ends.

        Raises:
            JobFailed: it did not answer in time, to somebody who had patience.
            Unavailable: it does not answer, to somebody who has none.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return do()
            except Unavailable as error:
                if not self.patience:
                    raise
                if time.monotonic() > deadline:
                    raise JobFailed("store_unavailable", f"{error} Run the job again then.") from error
                self.tell(0.0, "waiting for the store, which does not answer")
                self.breathe()
                time.sleep(STORE_PAUSE_SECONDS)


class HostCache:
    """The models and datasets of one host whose lab keeps them in an object store.

    Args:
        settings: where the folders are, and how large they may grow.
        room: the store.
    """

    def __init__(self, settings: Settings, room: Storeroom) -> None:
        self.room = room
        self._models, self._datasets = settings.models, settings.datasets
        self._outlines = settings.data / "outlines"
        self._bound = settings.cache_gb * 1e9

    def model(self, row: ModelRow, borrower: Borrower) -> Path:
        """Return the folder of a model, fetched and checked where this host lacks it or a part, and held.

        Raises:
            NotFound: the store lacks a file of it.
            BadInput: a file in the store is damaged; names file, seen and expected hash.
            JobFailed: the disk is full, or the store does not answer.
        """
        folder = self._models / row.name
        with self._one_at_a_time(row.name, borrower):
            if not (_is_published(folder, row) and _has_all_files(folder)):
                self._fetch(row, folder, borrower)
            used = time.time_ns()
            os.utime(folder / MANIFEST, ns=(used, used))
            borrower.hold(folder)
        return folder

    def outline(self, row: ModelRow, borrower: Borrower) -> Path:
        """Return a folder that is good for checks only: all small files, and the headers of the weights.

        Raises:
            NotFound, BadInput, Unavailable: as `model`.
        """
        whole, folder = self._models / row.name, self._outlines / row.manifest_sha256 / row.name
        if _is_published(whole, row):
            return whole
        with self._one_at_a_time(row.name, borrower):
            if not folder.is_dir():
                draft = folder.with_name(f".{row.name}")
                shutil.rmtree(draft, ignore_errors=True)
                raw = self.room.fetch_manifest(key_of(row), row.manifest_sha256)
                for file in self._files_of(raw, draft).files:
                    self._sketch(key_of(row), file, draft)
                draft.rename(folder)
        return folder

    def dataset(self, row: DatasetRow, borrower: Borrower) -> Path:
        """Return the file of a dataset, fetched and checked where this host lacks it.

        Raises:
            NotFound, BadInput, JobFailed: as `model`.
        """
        target = self._datasets / f"{row.name}.jsonl"
        with self._one_at_a_time(row.name, borrower):
            if not (target.is_file() and _sha256(target) == row.sha256):
                draft = self._datasets / f".{row.name}.incoming"
                file = ManifestFile(target.name, row.size_bytes, row.sha256)
                watcher = Watcher(breathe=borrower.breathe)
                borrower.patiently(lambda: self.room.fetch_file(dataset_key(row), file, draft, watcher))
                draft.replace(target)
                sync(self._datasets)
        return target

    def evict(self, needed_bytes: int) -> list[str]:
        """Make room for so many bytes within the bound, least recently used first; return what went.

        What somebody holds stays, and so does what the store lacks.
        """
        if not self._bound:
            return []
        kept = sorted(self._kept(), key=lambda found: found[0])
        used, gone = sum(size for _, _, size in kept), []
        for _, folder, size in kept:
            if used + needed_bytes <= self._bound:
                break
            if self._remove(folder):
                used -= size
                gone.append(folder.name)
        return gone

    def forget_outlines(self, known: Collection[str]) -> None:
        """Remove the outlines of models that are no longer listed, by the sha256 of their manifests."""
        for folder in self._outlines.iterdir() if self._outlines.is_dir() else ():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, row: ModelRow, folder: Path, borrower: Borrower) -> None:
        key = key_of(row)
        raw = borrower.patiently(lambda: self.room.fetch_manifest(key, row.manifest_sha256))
        draft = self._models / INCOMING / row.name
        shutil.rmtree(draft, ignore_errors=True)  # of a process that died on the way
        manifest = self._files_of(raw, draft)
        self.evict(manifest.size_bytes)
        teller = _Teller(row.name, manifest.size_bytes, borrower)
        try:
            for file in manifest.files:
                self._fetch_one(f"{key}/{file.path}", file, draft / file.path, teller)
            sync(draft)
            if os.path.lexists(folder):
                to_trash(folder, self._models)
            draft.rename(folder)
            sync(self._models)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _fetch_one(self, key: str, file: ManifestFile, target: Path, teller: "_Teller") -> None:
        before = teller.done

        def fetch() -> None:
            teller.done = before
            self.room.fetch_file(key, file, target, Watcher(teller.moved, teller.borrower.breathe))

        teller.borrower.patiently(fetch)

    def _sketch(self, key: str, file: ManifestFile, folder: Path) -> None:
        """Fetch a small file whole, and of weights the header; the rest is a hole of the right size."""
        target = folder / file.path
        if file.size <= WHOLE_BYTES or target.suffix != ".safetensors":
            self.room.fetch_file(f"{key}/{file.path}", file, target)
            return
        start = self.room.fetch_start(f"{key}/{file.path}", WHOLE_BYTES)
        length = 8 + min(int.from_bytes(start[:8], "little"), HEADER_LIMIT)
        if length > len(start):
            start = self.room.fetch_start(f"{key}/{file.path}", length)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            out.write(start[:length])
            out.truncate(file.size)

    @staticmethod
    def _files_of(raw: bytes, folder: Path) -> Manifest:
        """Begin a folder with its manifest, and read that."""
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(raw)
        manifest = read_manifest(folder)
        for file in manifest.files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise BadInput(f"The manifest of {folder.name} names {file.path!r}.", "A file of the folder.")
        return manifest

    def _kept(self) -> Iterator[tuple[float, Path, int]]:
        """Yield every whole model here with the time of its last use and its size."""
        for folder in sorted(self._models.iterdir()):
            if folder.name.startswith(".") or not (folder / MANIFEST).is_file():
                continue
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield (folder / MANIFEST).stat().st_mtime, folder, size

    def _remove(self, folder: Path) -> bool:
        """Remove a model from this host, unless somebody has it in hands or the store lacks it."""
        with self._lock_of(folder.name) as lock:
            if not (try_lock(lock) and is_idle(folder)):
                return False
            try:
                manifest = read_manifest(folder)
                if not self.room.has(
                    f"{model_key(manifest.name, manifest.job_id, manifest.sha256)}/{MANIFEST}"
                ):
                    return False
            except (BadInput, Unavailable):
                return False
            shutil.rmtree(to_trash(folder, self._models), ignore_errors=True)
            return True

    @contextmanager
    def _one_at_a_time(self, name: str, borrower: Borrower) -> Iterator[None]:
        """Let one process of this host at a time see to a name; the others wait for what it fetches."""
        with self._lock_of(name) as lock:
            while not try_lock(lock):
                borrower.tell(0.0, f"another job of this host is fetching {name}")
                borrower.breathe()
                time.sleep(LOCK_PAUSE_SECONDS)
            yield

    @contextmanager
    def _lock_of(self, name: str) -> Iterator[int]:
        locks = self._models / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        lock = os.open(locks / name, os.O_RDWR | os.O_CREAT)
        try:
            yield lock
        finally:
            os.close(lock)


@dataclass
class _Teller:
    """Turns bytes that have gone over into words for a job."""

    name: str
    total: int
    borrower: Borrower
    done: int = 0

    def moved(self, count: int) -> None:
        self.done += count
        fraction = self.done / max(self.total, 1)
        self.borrower.tell(fraction, f"fetching {self.name} from the store, {fraction:.0%}")


def _is_published(folder: Path, row: ModelRow) -> bool:
    manifest = folder / MANIFEST
    return (
        not folder.is_symlink()
        and manifest.is_file()
        and hashlib.sha256(manifest.read_bytes()).hexdigest() == row.manifest_sha256
    )


def _has_all_files(folder: Path) -> bool:
    """Whether every file is there in its size: one that was cut off or removed is fetched again."""
    files = [(folder / file.path, file.size) for file in read_manifest(folder).files]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
