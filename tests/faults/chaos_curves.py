"""Memory and open files of the long-lived processes while chaos.py runs, as a CSV and in words."""

import csv
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_SECONDS = 10.0
WARM_SECONDS = 60.0
"""A process that has just started still grows: growth counts from here."""


@dataclass(frozen=True)
class Sample:
    """One look at one process."""

    seconds: float
    name: str
    pid: int
    rss_mib: float
    files: int


@dataclass
class Curves:
    """Looks at processes every ten seconds.

    Args:
        path: where the CSV goes; None for nowhere.
    """

    path: Path | None
    samples: list[Sample] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    _next: float = 0.0

    def look(self, processes: Mapping[str, psutil.Process]) -> None:
        """Record every process, if it is time."""
        seconds = time.monotonic() - self.begun
        if seconds < self._next:
            return
        self._next = seconds + EVERY_SECONDS
        for name, process in processes.items():
            with suppress(psutil.Error):
                rss_mib = process.memory_info().rss / 2**20
                self.samples.append(Sample(seconds, name, process.pid, rss_mib, process.num_fds()))

    def write(self) -> None:
        """Write the CSV."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seconds", "process", "pid", "rss_mib", "open_files"))
            writer.writerows(
                (f"{one.seconds:.0f}", one.name, one.pid, f"{one.rss_mib:.1f}", one.files)
                for one in self.samples
            )

    def words(self) -> list[str]:
        """Say for each name how its longest-lived process grew once it was warm."""
        lines = []
        for name in sorted({one.name for one in self.samples}):
            lives: dict[int, list[Sample]] = {}
            for one in self.samples:
                if one.name == name:
                    lives.setdefault(one.pid, []).append(one)
            life = max(lives.values(), key=lambda samples: samples[-1].seconds - samples[0].seconds)
            warm = [one for one in life if one.seconds - life[0].seconds >= WARM_SECONDS]
            if len(warm) < 2:
                lines.append(f"{name}: {len(lives)} processes, none lived long enough to tell its growth")
                continue
            first, last = warm[0], warm[-1]
            growth = 100 * (last.rss_mib / first.rss_mib - 1)
            most = max(one.files for one in warm)
            lines.append(
                f"{name}: {first.rss_mib:.0f} -> {last.rss_mib:.0f} MiB ({growth:+.1f} %), "
                f"open files {first.files} -> {last.files} (most {most}) "
                f"in {(last.seconds - first.seconds) / 60:.1f} minutes; {len(lives)} processes"
            )
        return lines
