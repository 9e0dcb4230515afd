"""What a merge takes: foretold from its plan, and measured while it runs, to stand side by side."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from lab.merge.plan import MergePlan

CHUNK_BYTES = 1 << 20
"""A chunk of 262,144 float32 numbers."""

CHUNKS_BESIDE = 12
"""What a thread holds beside a row for each model: base, result, rounded result, the method's temporaries."""

KEPT_BYTES = 48 << 20
"""What the allocator keeps between chunks, and the libraries' own buffers."""

_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """What a merge takes.

    Attributes:
        seconds: from its first to its last byte; foretold for one core.
        memory_bytes: how much more memory than before it began, at its peak; mapped files don't count.
        disk_bytes: what is written.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


def foretold(plan: MergePlan, threads: int) -> Cost:
    """Say what a merge will take.

    A method without a form in chunks holds the largest tensor of every model, and as much again.

    Args:
        plan: the merge.
        threads: how many tensors are merged side by side.
    """
    method = plan.method
    models = max(len(tensor.inputs) for tensor in plan.tensors)
    rows = (2 * models + CHUNKS_BESIDE) * CHUNK_BYTES
    if not method.elementwise and not method.streamed:
        largest = max(tensor.elements * len(tensor.inputs) for tensor in plan.tensors)
        rows += 3 * 4 * largest
    return Cost(plan.seconds, KEPT_BYTES + max(1, threads) * rows, plan.size_bytes)


@dataclass
class Meter:
    """Measures a piece of work.

    Attributes:
        seconds: how long it took.
        cpu_seconds: what all threads computed.
        memory_bytes: how much its memory grew at most.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self, start: int) -> None:
        """Look again and again until told to stop."""
        while True:
            self.look(start)
            if self._stop.wait(_LOOK_SECONDS):
                return

    def look(self, start: int) -> None:
        """Keep the peak of what the memory has grown by."""
        self.memory_bytes = max(self.memory_bytes, own_memory() - start)


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure what runs inside; the figures are complete when it has ended."""
    meter, begun, computed = Meter(), time.monotonic(), time.process_time()
    watcher = threading.Thread(target=meter.watch, args=(own_memory(),), name="meter", daemon=True)
    watcher.start()
    try:
        yield meter
    finally:
        meter._stop.set()
        watcher.join()
        meter.seconds = time.monotonic() - begun
        meter.cpu_seconds = time.process_time() - computed


def own_memory() -> int:
    """Return this process's memory without the files that it has mapped, in bytes."""
    told = psutil.Process().memory_info()
    return int(told.rss - getattr(told, "shared", 0))


def told(before: Cost, meter: Meter, folder: Path) -> dict[str, object]:
    """Return both as JSON values, for the summary of a job."""
    written = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    real = asdict(Cost(meter.seconds, meter.memory_bytes, written)) | {"cpu_seconds": meter.cpu_seconds}
    return {"foretold": asdict(before), "real": real}
