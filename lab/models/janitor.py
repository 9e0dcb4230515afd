"""Removes what dead attempts and deleted models left behind, on this host and in the object store.

Every host runs one; they do no harm beside each other.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from lab.core.errors import BadInput, Unavailable
from lab.core.files import is_idle
from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.rows import LIVE
from lab.models.carrying import PART
from lab.models.hostcache import HostCache
from lab.models.publish import TRASH, read_manifest, to_trash
from lab.models.storeroom import DATASETS, MODELS, Storeroom, dataset_key, key_of

MOST_LIVE_JOBS = 100_000
KEEP_WORK_SECONDS = 24 * 3600.0
"""So long a failed job's work waits for somebody to run the job again."""


class Janitor:
    """Makes one round when it is told to.

    Args:
        settings: where the folders are.
        store: knows what is listed and which jobs live.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._room = Storeroom(settings.store_url) if settings.store_url else None
        self._suspects: dict[str, float] = {}

    def sweep(self, older_than: float) -> None:
        """Remove leftovers that are older than so many seconds.

        A key of the object store is as old as this janitor has known it to be nobody's: by no clock but
        its own, which only grows.

        Raises:
            Unavailable: the database does not answer.
        """
        found = self._keys()  # first: what is listed or begun after this is not among them
        live = {row.id for row in self._store.jobs.list(states=LIVE, limit=MOST_LIVE_JOBS)}
        models = self._store.models.list()  # after the jobs: one that has just ended is listed here
        names = {row.name for row in models}
        sweep(self._settings.models, self._settings.jobs, names, live, older_than, self._failed_of_late())
        if self._room:
            listed = {key_of(row) for row in models}
            listed |= {dataset_key(row) for row in self._store.datasets.list()}
            self._sweep_store({key for key in found - listed if _job_of(key) not in live}, older_than)
            cache = HostCache(self._settings, self._room)
            cache.forget_outlines({row.manifest_sha256 for row in models})
            cache.evict(0)

    def _failed_of_late(self) -> set[str]:
        """Return the jobs that may still be run again with the work that they had done."""
        since = self._store.database.time() - KEEP_WORK_SECONDS
        failed = self._store.jobs.list(states=["failed"], limit=1000)
        return {row.id for row in failed if row.finished is not None and row.finished > since}

    def _keys(self) -> set[str]:
        if not self._room:
            return set()
        try:
            return {*self._room.keys(MODELS), *self._room.keys(DATASETS)}
        except Unavailable:
            return set()  # the next round sees them

    def _sweep_store(self, unlisted: set[str], older_than: float) -> None:
        assert self._room
        now = time.monotonic()
        self._suspects = {key: self._suspects.get(key, now) for key in unlisted}
        for key, since in list(self._suspects.items()):
            if now - since >= older_than:
                try:
                    self._room.remove(key)
                except Unavailable:
                    return
                del self._suspects[key]


def sweep(
    models_dir: Path,
    jobs_dir: Path,
    known_names: Collection[str],
    live_jobs: Collection[str],
    older_than: float,
    failed_jobs: Collection[str] = (),
) -> list[str]:
    """Tidy up after crashes: unlisted model folders to the trash, ended jobs' work folders away.

    A folder whose job still lives is left alone: that job will adopt it. Logs stay.

    Args:
        models_dir: the room of the models.
        jobs_dir: the room of the jobs.
        known_names: the models that the database lists.
        live_jobs: ids of jobs that have not ended.
        older_than: seconds that something must have been untouched for.
        failed_jobs: ids of jobs whose work may yet be gone on with.

    Returns:
        The names of the model folders that went to the trash.
    """
    before = _now_on(models_dir) - older_than
    gone = []
    for folder in _old_folders(models_dir, before):
        if folder.name.endswith(PART):
            shutil.rmtree(folder, ignore_errors=True)
        elif (
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
        if job.name not in live_jobs and job.name not in failed_jobs:
            shutil.rmtree(job / "work", ignore_errors=True)
    return gone


def _job_of(key: str) -> str:
    """Return the job that uploads to a key; nothing for a dataset's, which comes from a page."""
    return key.split("@")[1] if key.startswith(f"{MODELS}/") else ""


def _now_on(disk: Path) -> float:
    """Return the present by the clock that stamps the files of a folder: a file server's may differ."""
    with tempfile.TemporaryFile(dir=disk) as probe:
        return os.fstat(probe.fileno()).st_mtime


def _old_folders(room: Path, before: float) -> list[Path]:
    if not room.is_dir():
        return []
    return [item for item in sorted(room.iterdir()) if item.is_dir() and item.stat().st_mtime < before]


def _has_job(folder: Path, live_jobs: Collection[str]) -> bool:
    try:
        return read_manifest(folder).job_id in live_jobs
    except BadInput:
        return False
