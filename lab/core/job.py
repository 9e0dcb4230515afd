"""What a running job sees of the lab: its folder, its device, and a way to tell how it goes.

A kind of job is a function `run(spec, job) -> Outcome`. It is given a `Job`; the same function runs
in a worker's child process and, for a command with an output folder, in the command's own process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lab.core.events import EventKind

PARTNER_LOST = 72
"""The exit code of a job's process that could not go on because a further process of the job was lost."""

ModelKind = Literal["base", "adapter", "tuned", "merge", "upscaled"]


@dataclass(frozen=True)
class Device:
    """Where a job computes. Chosen by the worker, shown and recorded; nothing else assumes one.

    Attributes:
        torch: the device in torch's words, such as "cpu" or "cuda:0".
        dtype: the precision to compute in, in torch's words: "bfloat16" or "float32".
        words: for people: "CPU, 2 threads, bfloat16".
        free_bytes: memory that the job may plan with.
    """

    torch: str
    dtype: str
    words: str
    free_bytes: int


@dataclass(frozen=True)
class Partner:
    """A further device that a job holds beside its own; a process that is to compute on it sees no other.

    Attributes:
        name: how this machine calls it.
        environment: what such a process has to find in its environment.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NewModel:
    """A finished model folder that waits to be published.

    Attributes:
        name: its name in the catalog.
        folder: the folder that is renamed into place; on the data folder's file system.
        kind: what sort of model it is.
        parents: names of the models it came from, base first.
        words: how it was made, in a few words: "ties of pirate and sums, density 0.4".
        facts: architecture, parameters, layers, vocabulary, licence, origin and the like; JSON values.
        digests: sha256 of large files that were hashed since they were written, by path in the folder.
    """

    name: str
    folder: Path
    kind: ModelKind
    parents: tuple[str, ...] = ()
    words: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a job leaves behind.

    Attributes:
        models: model folders to publish, all or none.
        summary: JSON values for the pages: transcript, scores, final loss.
        stopped_early: whether it ended by "stop and keep".
    """

    models: tuple[NewModel, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    stopped_early: bool = False


class Shelf(Protocol):
    """Where a name becomes a place, and what room there is. All that a check before submitting may use."""

    def model(self, ref: str) -> Path:
        """Return the folder of a model.

        Raises:
            NotFound: there is no such model (any more).
        """
        ...

    def dataset(self, ref: str) -> Path:
        """Return the JSONL file of a dataset.

        Raises:
            NotFound: there is no such dataset (any more).
        """
        ...

    def free_disk_bytes(self) -> int:
        """Return the bytes free where results are written."""
        ...

    def memory_bytes(self) -> int:
        """Return the memory of the largest device that jobs run on, in bytes."""
        ...

    def devices_together(self) -> int:
        """Return how many devices one job may have at once: those of the host that has the most."""
        ...


class Job(Shelf, Protocol):
    """One attempt at a job, as its own code sees it."""

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt."""
        ...

    @property
    def attempt(self) -> int:
        """1 at first; more after a crash."""
        ...

    @property
    def thrift(self) -> int:
        """1 once the memory has run out under an earlier attempt: this one takes a smaller plan; else 0."""
        ...

    @property
    def folder(self) -> Path:
        """The job's own folder. It survives a crash: put checkpoints and finished shards here."""
        ...

    @property
    def device(self) -> Device:
        """Where to compute."""
        ...

    @property
    def partners(self) -> tuple[Partner, ...]:
        """The further devices that a job holds which asked for several; like our own, on this host."""
        ...

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Tell one event (core/events has the payloads). Cheap: written in batches by another thread."""
        ...

    def note(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """Tell the owner something worth reading."""
        ...

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        """Tell how far the job is, from 0 to 1."""
        ...

    def breathe(self) -> None:
        """Call between steps and between chunks of long work; costs nothing most of the time.

        Raises:
            Cancelled: the owner cancelled the job.
            Released: the worker shuts down; keep a checkpoint and let the exception pass.
            Fenced: another attempt owns the job.
        """
        ...

    def stop_asked(self) -> bool:
        """Whether the owner asked to stop and keep what there is."""
        ...


class ShelfJob:
    """What every `Job` does alike: it looks things up on its shelf and tells notes and progress as events.

    Attributes:
        shelf: where names become places.
    """

    shelf: Shelf

    def model(self, ref: str) -> Path:
        """Return the folder of a model."""
        return self.shelf.model(ref)

    def dataset(self, ref: str) -> Path:
        """Return the JSONL file of a dataset."""
        return self.shelf.dataset(ref)

    def free_disk_bytes(self) -> int:
        """Return the bytes free where results are written."""
        return self.shelf.free_disk_bytes()

    def memory_bytes(self) -> int:
        """Return the memory of this machine, in bytes."""
        return self.shelf.memory_bytes()

    def devices_together(self) -> int:
        """Return how many devices one job may have at once."""
        return self.shelf.devices_together()

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Tell one event."""
        raise NotImplementedError

    def note(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """Tell the owner something worth reading."""
        self.emit("note", text=text, level=level)

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        """Tell how far the job is, from 0 to 1."""
        self.emit("progress", fraction=fraction, words=words, seconds_left=seconds_left)


Run = Callable[[Any, Job], Outcome]
"""The signature of every kind of job: run(spec, job). The spec's type is the kind's own."""

Check = Callable[[Any, Shelf], object]
"""What is checked before a job is queued: check(spec, shelf). Reads headers and configs, raises BadInput."""
