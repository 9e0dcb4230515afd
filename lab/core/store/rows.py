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
    """One job. `spec` and `result` are JSON values; `title` is the job in words.

    `waits_for` says what keeps a queued job from starting; `thrift` is 1 once its memory has run out and
    it is tried again in a smaller plan. `turn` orders its owner's waiting jobs; `expected_seconds` is what
    its check expected, and `is_short` whether it may use the place that is kept for short jobs. Of each of
    its `devices` it needs `need_bytes`.
    """

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
    need_bytes: int = 0
    waits_for: str = ""
    thrift: int = 0
    turn: float = 0.0
    expected_seconds: float | None = None
    is_short: bool = False
    devices: int = 1

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
    """One worker process: its lane, what it runs on, what it holds in memory, and its places for jobs."""

    id: str
    lane: str
    host: str
    device: str
    models_loaded: tuple[str, ...]
    seen: float
    is_alive: bool
    places: int = 0
    short_places: int = 0


@dataclass(frozen=True)
class PauseRow:
    """A lane in which no waiting job starts: who paused it, and when."""

    lane: str
    owner: str
    since: float


@dataclass(frozen=True)
class DeviceRow:
    """One device of one host. `rests` after it failed; `kept_bytes` are the chat's loaded models."""

    host: str
    name: str
    words: str
    total_bytes: int
    seen: float
    rests_until: float | None
    kept_bytes: int
    kept_words: str
    rests: bool
    is_alive: bool

    @property
    def short(self) -> str:
        """The device in a word or two: "CPU", "NVIDIA H100"."""
        return self.words.partition(",")[0] or self.name


@dataclass(frozen=True)
class HoldRow:
    """A running attempt's hold on a device: the attempt is its fence, the job's lease its own."""

    job_id: str
    attempt: int
    lane: str
    host: str
    device: str
    bytes: int
    since: float
    lease_until: float | None
