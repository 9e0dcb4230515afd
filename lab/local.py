"""A job that runs in this process: no queue, no database, its progress told on a stream.

For commands that are given a place to write to. The result is built beside that place and renamed
into it, so that it appears there whole or not at all.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lab.core.errors import BadInput
from lab.core.events import EventKind
from lab.core.files import sync
from lab.core.job import Device, NewModel, Outcome, Partner, Shelf, ShelfJob
from lab.core.spec import JobSpec, spec_sha256
from lab.jobs import KINDS
from lab.models.publish import finish

JOB_ID = "local"
PAUSE_SECONDS = 5.0
"""Between two lines of progress where lines can't be written over."""


@dataclass
class Voice:
    """Tells people on a stream how it goes: one line that changes on a terminal, else a line now and then.

    Attributes:
        stream: where to write, such as sys.stderr.
        is_quiet: whether to say nothing at all.
        clock: seconds that only grow.
    """

    stream: TextIO
    is_quiet: bool = False
    clock: Callable[[], float] = time.monotonic
    _told: float = float("-inf")
    _is_open: bool = False

    def say(self, text: str) -> None:
        """Write a line."""
        self._end_line()
        self._write(f"{text}\n")

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        """Say how far it is; on a terminal in place of what was said before."""
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        line = f"{fraction:4.0%} {words}{left}"
        if self.stream.isatty():
            self._write(f"\r\x1b[2K{line}")
            self._is_open = True
        elif self.clock() - self._told >= PAUSE_SECONDS:
            self._told = self.clock()
            self._write(f"{line}\n")

    def _end_line(self) -> None:
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def _write(self, text: str) -> None:
        if not self.is_quiet:
            self.stream.write(text)
            self.stream.flush()


def duration(seconds: float) -> str:
    """Say a duration as people do: "40 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@dataclass
class LocalJob(ShelfJob):
    """One run of a job in this process (core/job.Job). Ctrl-C ends it; nothing resumes it.

    Attributes:
        folder: its own folder, removed when it ends.
        device: where it computes.
        shelf: where names and paths become places.
        voice: tells how it goes.
    """

    folder: Path
    device: Device
    shelf: Shelf
    voice: Voice
    id: str = JOB_ID
    attempt: int = 1
    thrift: int = 0
    partners: tuple[Partner, ...] = ()

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Tell progress and notes; what only a page draws is for nobody here."""
        if kind == "progress":
            self.voice.progress(**payload)
        elif kind == "note":
            self.voice.say(payload["text"])

    def breathe(self) -> None:
        """Do nothing: Ctrl-C is an exception here."""

    def stop_asked(self) -> bool:
        """Never: there is nobody to ask."""
        return False


def check_job(spec: JobSpec, shelf: Shelf) -> None:
    """Check a spec as it would be before it is queued; nothing is written yet.

    Raises:
        BadInput: it can't work.
    """
    KINDS[spec.kind].load_check()(spec, shelf)


def run_job(spec: JobSpec, job: LocalJob, **extra: Any) -> Outcome:
    """Run a checked spec in this process.

    Args:
        spec: of any kind.
        job: where it runs.
        extra: what this kind's run takes besides, such as a cache of loaded models.
    """
    run: Callable[..., Outcome] = KINDS[spec.kind].load_run()
    return run(spec, job, **extra)


def check_out_dir(out: Path) -> None:
    """Refuse a place for a result that is taken or can't be made.

    Raises:
        BadInput: it is no empty folder, or the folder around it can't be written.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise BadInput(f"{out} is there already and not empty.", "", "Name a folder that is new or empty.")
    _check_parent(out)


def check_out_file(out: Path) -> None:
    """Refuse a place for a file that can't be written; a file that is there is replaced at the end.

    Raises:
        BadInput: it is a folder, or the folder around it can't be written.
    """
    if out.is_dir():
        raise BadInput(f"{out} is a folder.", "", "Name a file.")
    _check_parent(out)


@contextmanager
def work_beside(out: Path) -> Iterator[Path]:
    """Make a hidden folder beside a result's place, on the same disk, and remove it whatever happens."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_models(spec: JobSpec, models: tuple[NewModel, ...], work: Path, out: Path) -> None:
    """Finish a job's models and rename them into place: one model is `out`, several are folders in it.

    Raises:
        JobFailed: the disk is full.
    """
    for model in models:
        finish(model, spec_sha256(spec), JOB_ID, 1)
    ready = models[0].folder
    if len(models) > 1:
        ready = work / "ready"
        ready.mkdir()
        for model in models:
            model.folder.rename(ready / model.name)
        sync(ready)
    ready.rename(out)  # also over an empty folder
    sync(out.parent)


def put_file(text: str, work: Path, out: Path) -> None:
    """Write a file whole or not at all."""
    draft = work / "draft"
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(out)
    sync(out.parent)


def _check_parent(out: Path) -> None:
    around = next(folder for folder in out.absolute().parents if folder.exists())
    if not around.is_dir() or not os.access(around, os.W_OK | os.X_OK):
        raise BadInput(
            f"{around} can't be written to.", f"{out} is to be made there.", "Choose another place."
        )
