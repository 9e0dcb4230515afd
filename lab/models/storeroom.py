"""Published models and datasets in an object store, for hosts that share no folder.

Any place that fsspec knows: s3://bucket/folder, file:///mnt/lab, memory:// in tests. What lies there is
never changed, only added and removed: a key names its content by sha256, and what is fetched is hashed
on its way. Knows no database: whoever lists a key has published it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lab.core.errors import BadInput, NotFound, Unavailable
from lab.core.store.rows import DatasetRow, ModelRow
from lab.models.publish import MANIFEST, Manifest, ManifestFile, full_disk_is_failure

CHUNK_BYTES = 4 << 20
MODELS, DATASETS = "models", "datasets"


@dataclass(frozen=True)
class Watcher:
    """Who waits for a transfer.

    Attributes:
        moved: told the bytes of every chunk as it has gone over.
        breathe: called between chunks; may raise to end the transfer.
    """

    moved: Callable[[int], None] = lambda *_: None
    breathe: Callable[[], None] = lambda: None


NOBODY = Watcher()


def model_key(name: str, job_id: str | None, manifest_sha256: str) -> str:
    """Return where a model lies in a store, by what its row or its manifest says."""
    return f"{MODELS}/{name}@{job_id or '-'}@{manifest_sha256}"


def key_of(row: ModelRow) -> str:
    """Return where a listed model lies in a store."""
    return model_key(row.name, row.job_id, row.manifest_sha256)


def dataset_key(row: DatasetRow) -> str:
    """Return where a listed dataset lies in a store."""
    return f"{DATASETS}/{row.name}@{row.sha256}.jsonl"


class Storeroom:
    """One folder or bucket that fsspec reaches.

    Args:
        url: `s3://bucket/folder`, or any other that fsspec knows. Credentials are found as its own library
            finds them.

    Raises:
        BadInput: the URL names nothing that this Python can reach.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec  # a tenth of a second that a lab on one machine does without

            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise BadInput(
                f"{url!r} can't be reached: {error}.",
                "LAB_STORE_URL, and the place of a backup, is a URL that fsspec knows: s3://bucket/folder, "
                "file:///mnt/lab; or a folder.",
                "Mend it, or install what it needs (s3fs for s3://).",
            ) from error
        if hasattr(self._fs, "auto_mkdir"):
            self._fs.auto_mkdir = True  # a disk has folders, an object store only names
        self._root = str(root).rstrip("/")
        self._faults = _faults()

    def put_model(self, folder: Path, manifest: Manifest, watcher: Watcher = NOBODY) -> str:
        """Upload a finished folder under a key of its own, its manifest last; return the key.

        Until a row names the key, nobody opens it. One that is there whole is not sent again.

        Raises:
            BadInput: a file is no longer what its manifest says.
            Unavailable: the store does not answer.
        """
        key = model_key(manifest.name, manifest.job_id, manifest.sha256)
        seal = (folder / MANIFEST).read_bytes()
        if self._bytes_or_none(f"{key}/{MANIFEST}") == seal:
            return key
        for file in manifest.files:
            self.put_file(folder / file.path, f"{key}/{file.path}", file.sha256, watcher)
        self.put_bytes(seal, f"{key}/{MANIFEST}")
        return key

    def put_file(self, source: Path, key: str, sha256: str, watcher: Watcher = NOBODY) -> None:
        """Upload one file.

        Raises:
            BadInput: it does not have this sha256.
            Unavailable: the store does not answer.
        """
        path = self._path(key)
        with (
            self._answering("written"),
            full_disk_is_failure(f"writing {key} to the store"),
            source.open("rb") as reading,
            self._fs.open(path, "wb") as writing,
        ):
            seen = _copy(reading, writing, watcher)
            _force_to_disk(writing)
        if seen != sha256:
            raise _damaged(str(source), seen, sha256)

    def put_bytes(self, content: bytes, key: str) -> None:
        """Write a small file; it is there whole or as it was before.

        Raises:
            Unavailable: the store does not answer.
        """
        draft, path = self._path(f"{key}.draft"), self._path(key)
        with self._answering("written"):
            with self._fs.open(draft, "wb") as writing:
                writing.write(content)
                _force_to_disk(writing)
            self._fs.mv(draft, path)

    def get_bytes(self, key: str) -> bytes:
        """Return a small file, unchecked.

        Raises:
            NotFound: it is not there.
            Unavailable: the store does not answer.
        """
        with self._answering("read", key):
            return cast(bytes, self._fs.cat_file(self._path(key)))

    def fetch_manifest(self, key: str, sha256: str) -> bytes:
        """Return the manifest of a model.

        Raises:
            NotFound: it is not there.
            BadInput: it is not the one that was published.
            Unavailable: the store does not answer.
        """
        raw = self.get_bytes(f"{key}/{MANIFEST}")
        seen = hashlib.sha256(raw).hexdigest()
        if seen != sha256:
            raise _damaged(f"{key}/{MANIFEST}", seen, sha256)
        return raw

    def fetch_file(self, key: str, file: ManifestFile, target: Path, watcher: Watcher = NOBODY) -> None:
        """Download one file and check it; nothing is left of one that is damaged.

        Raises:
            NotFound: it is not there.
            BadInput: its content is not what was published; names file, seen and expected hash.
            JobFailed: the disk is full.
            Unavailable: the store does not answer.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._answering("read", key),
            full_disk_is_failure(f"fetching {key}"),
            self._fs.open(self._path(key), "rb") as reading,
            target.open("wb") as writing,
        ):
            seen = _copy(reading, writing, watcher)
            _force_to_disk(writing)
        if seen != file.sha256:
            target.unlink()
            raise _damaged(key, seen, file.sha256)

    def fetch_start(self, key: str, count: int) -> bytes:
        """Return the first bytes of a file, unchecked.

        Raises:
            NotFound: it is not there.
            Unavailable: the store does not answer.
        """
        with self._answering("read", key):
            return cast(bytes, self._fs.cat_file(self._path(key), start=0, end=count))

    def has(self, key: str) -> bool:
        """Whether there is such a file.

        Raises:
            Unavailable: the store does not answer.
        """
        with self._answering("read"):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(key)))

    def keys(self, room: str) -> list[str]:
        """Return the keys of all models or all datasets, published or not.

        Raises:
            Unavailable: the store does not answer.
        """
        with self._answering("read"):
            self._fs.invalidate_cache()
            try:
                names = self._fs.ls(self._path(room), detail=False)
            except FileNotFoundError:
                return []
        return sorted(f"{room}/{str(name).rstrip('/').rpartition('/')[2]}" for name in names)

    def remove(self, key: str) -> None:
        """Remove a model's files or a dataset's; what is not there is gone already.

        Raises:
            Unavailable: the store does not answer.
        """
        with self._answering("written"), suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(key), recursive=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _bytes_or_none(self, key: str) -> bytes | None:
        try:
            return self.get_bytes(key)
        except NotFound:
            return None

    @contextmanager
    def _answering(self, verb: str, key: str = "") -> Iterator[None]:
        """Tell a store that does not answer from one that lacks a file."""
        try:
            yield
        except FileNotFoundError:
            if not key:
                raise
            raise NotFound(
                f"{key} is not in the store {self.url}.",
                "A published file stays there until its model is deleted.",
                "Restore it from a backup, or delete the model and make it again.",
            ) from None
        except self._faults as error:
            raise Unavailable(
                f"The store {self.url} can't be {verb} now: {error}. Nothing was lost. "
                "It is asked again; if it stays away, see to it."
            ) from error


def _copy(reading: BinaryIO, writing: BinaryIO, watcher: Watcher) -> str:
    digest = hashlib.sha256()
    while chunk := reading.read(CHUNK_BYTES):
        digest.update(chunk)
        writing.write(chunk)
        watcher.moved(len(chunk))
        watcher.breathe()
    return digest.hexdigest()


def _force_to_disk(writing: Any) -> None:
    """Sync a file on a disk; an object store has none that we could sync."""
    try:
        number = writing.fileno()
    except (OSError, AttributeError):
        return
    writing.flush()
    os.fsync(number)


def _damaged(what: str, seen: str, expected: str) -> BadInput:
    return BadInput(
        f"{what} is damaged: its sha256 is {seen}.",
        f"The manifest says {expected}.",
        "Restore it from a backup, or delete the model and make it again.",
    )


def _faults() -> tuple[type[Exception], ...]:
    """Return what the libraries of the stores raise when a store does not answer."""
    faults: list[type[Exception]] = [OSError]
    with suppress(ImportError):
        from botocore.exceptions import BotoCoreError

        faults.append(BotoCoreError)
    return tuple(faults)
