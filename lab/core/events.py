"""What a job says while it runs: typed events, and the buffer that writes them in small batches.

Knows the shapes and the pace. Where they are written is a function passed in.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

EventKind = Literal[
    "state", "progress", "metric", "delta", "column", "note", "artifact", "failure", "figures"
]

FLUSH_SECONDS = 0.125
"""Eight batches a second at most."""


@dataclass(frozen=True)
class NewEvent:
    """An event that has no place in the sequence yet.

    The payloads, by kind:
        state: state, attempt, why (words, may be empty); where an attempt begins or is given up, device;
            where it ended badly, exit ("SIGKILL", "code 3") and log (its last lines), once known
        progress: fraction (0 to 1), words, seconds_left (or None)
        metric: step, values {name: number or None}; a step told twice replaces the first
        delta: column, text (to append)
        column: column, phase (waiting, reading, writing, done), and figures once known:
            first_token_seconds, tokens_per_second, tokens, stop_reason
        note: text, level (info or warning)
        artifact: model (name of a published model)
        failure: code, text, field (or None)
        figures: tensors, what a look into models found of each (merge/inspect/report has the shape)
    """

    kind: EventKind
    payload: dict[str, Any]


@dataclass(frozen=True)
class Event(NewEvent):
    """An event as stored: `seq` counts from 1 within its job, without gaps; `time` is the database's."""

    seq: int = 0
    time: float = 0.0


def coalesce(events: Sequence[NewEvent]) -> list[NewEvent]:
    """Join neighbouring text deltas of one column and drop progress that a later progress replaces."""
    joined: list[NewEvent] = []
    open_delta: dict[int, int] = {}  # column -> index in joined of a delta that may still grow
    for event in events:
        if event.kind == "delta":
            column = event.payload["column"]
            if column in open_delta:
                earlier = joined[open_delta[column]]
                text = earlier.payload["text"] + event.payload["text"]
                joined[open_delta[column]] = NewEvent("delta", {**earlier.payload, "text": text})
                continue
            open_delta[column] = len(joined)
        elif event.kind == "column":
            open_delta.pop(event.payload["column"], None)
        elif event.kind == "progress" and joined and joined[-1].kind == "progress":
            joined.pop()
        joined.append(event)
    return joined


@dataclass
class EventBuffer:
    """Collects events from any thread and writes them at most eight times a second.

    A failed write is kept and raised at the next `emit` or `close`, so that a fenced job notices.

    Args:
        write: stores a batch, in order; raises Fenced when the job belongs to another attempt.
    """

    write: Callable[[list[NewEvent]], object]
    _waiting: list[NewEvent] = field(default_factory=list)
    _error: Exception | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Queue one event; it is written within an eighth of a second."""
        if self._error:
            raise self._error
        with self._lock:
            self._waiting.append(NewEvent(kind, payload))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="events")
                self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Write what is waiting, now."""
        with self._writing:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if batch:
                self.write(coalesce(batch))

    def close(self) -> None:
        """Write what is left and stop; raise the error of a write that failed."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._error:
            raise self._error
        self.flush()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001  kept for the job's own thread, which raises it
                self._error = error
                return
            self._closing.wait(FLUSH_SECONDS)
