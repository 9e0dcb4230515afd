"""What the store gives back: frozen rows, with JSON already read. Times are the database's, in seconds."""

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]

STATES: tuple[State, ...] = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")
TERMINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
LIVE: tuple[State, ...] = ("queued", "running", "cancelling")

LEGAL: frozenset[tuple[State, State]] = frozenset(
    {
        ("queued", "running"),  # claimed
        ("queued", "cancelled"),
        ("queued", "failed"),  # expired, invalid, poison
        ("running", "succeeded"),
        ("running", "failed"),
        ("running", "queued"),  # lease lapsed, or the worker shut down
        ("running", "cancelling"),
        ("cancelling", "cancelled"),
        ("cancelling", "succeeded"),  # published before it noticed
        ("cancelling", "failed"),
    }
)
"""The ten legal transitions; the other 26 ordered pairs are refused by a trigger too."""


@dataclass(frozen=True)
class JobRow:
    """One job. `spec` and `result` are JSON values; `title` is the job in words."""

    id: str
    owner: str
    kind: str
    lane: str
    title: str
    spec: dict[str, Any]
    spec_sha256: str
    state: State
    attempt: int
    crash_count: int
    priority: int
    resumable: bool
    stop_requested: bool
    stopped_early: bool
    parent_id: str | None
    worker_id: str | None
    device: str
    last_seq: int
    progress: float
    progress_words: str
    seconds_left: float | None
    created: float
    started: float | None
    finished: float | None
    lease_until: float | None
    error_code: str | None
    error_text: str | None
    result: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class ModelRow:
    """One published model. `facts` holds architecture, parameters, layers, licence, origin and the like."""

    name: str
    kind: str
    owner: str
    parents: tuple[str, ...]
    words: str
    facts: dict[str, Any]
    size_bytes: int
    manifest_sha256: str
    job_id: str | None
    created: float


@dataclass(frozen=True)
class DatasetRow:
    """One imported dataset. `facts` holds format, rows kept and refused, and where it came from."""

    name: str
    owner: str
    facts: dict[str, Any]
    size_bytes: int
    sha256: str
    created: float


@dataclass(frozen=True)
class ScoreRow:
    """One figure of one model on one data file, with its 95 % interval and the number of items."""

    model: str
    metric: str
    data: str
    value: float
    low: float
    high: float
    n: int
    job_id: str
    created: float


@dataclass(frozen=True)
class WorkerRow:
    """One worker process: its lane, what it runs on, and what it holds in memory."""

    id: str
    lane: str
    host: str
    device: str
    models_loaded: tuple[str, ...]
    seen: float
    is_alive: bool
