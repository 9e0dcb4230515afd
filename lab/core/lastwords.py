"""What an attempt's process said last: where its log lies, the end of it, and how the process ended.

Knows files and limits; what becomes of an attempt is the store's business.
"""

from dataclasses import dataclass
from pathlib import Path

MOST_LINES = 200
MOST_BYTES = 16 * 1024


@dataclass(frozen=True)
class LastWords:
    """The end of an attempt's process, for the attempt's record.

    Attributes:
        exit: how the process ended, by name: "SIGKILL", "code 3"; empty where nobody saw it end.
        log: the last lines of the attempt's log.
    """

    exit: str = ""
    log: str = ""

    def as_payload(self) -> dict[str, str]:
        """Return what there is of it, for an event."""
        return {name: value for name, value in vars(self).items() if value}


UNHEARD = LastWords()
"""Of an attempt whose end nobody saw."""


def log_of(jobs: Path, job_id: str, attempt: int) -> Path:
    """Return the file with everything that an attempt printed, and its traceback."""
    return jobs / job_id / f"attempt-{attempt}.log"


def last_lines(log: Path, most_lines: int = MOST_LINES, most_bytes: int = MOST_BYTES) -> str:
    """Return the end of a log as text; empty when there is none or this machine can't read it.

    A line that was written over itself, as progress bars are, counts as it was seen last.
    """
    try:
        with log.open("rb") as file:
            start = max(file.seek(0, 2) - most_bytes, 0)
            file.seek(start)
            raw = file.read(most_bytes)
    except OSError:
        return ""
    if start and b"\n" in raw:
        raw = raw.partition(b"\n")[2]  # the first line is cut
    text = raw.decode("utf-8", "replace").replace("\0", "")  # Postgres keeps no such character
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    kept = "\n".join(lines[-most_lines:])
    return kept.encode()[-most_bytes:].decode("utf-8", "ignore")
