"""A job's attempts as HTML: when each began, on what it ran, how it ended, its log and a download of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from lab.core.events import Event
from lab.core.store.rows import JobRow
from lab.ui import widgets
from lab.ui.widgets import esc
from lab.ui.words import duration

MOST_SHOWN = 10
MOST_READ = 3
"""So many logs are read from their files; of earlier attempts the record's last lines are shown."""


@dataclass(frozen=True)
class Tried:
    """One attempt, as the job's events tell it. Times are the database's, in seconds."""

    number: int
    began: float
    ended: float | None
    how: str
    device: str
    last_lines: str


def attempts_of(job: JobRow, states: Sequence[Event]) -> list[Tried]:
    """Read a job's attempts from the events of its states, the newest first."""
    tried: dict[int, Tried] = {}
    for event in states:
        told = event.payload
        number, state = int(told["attempt"]), told["state"]
        if state == "running":
            device = job.device if number == job.attempt else told.get("device", "")
            words = "being cancelled" if job.state == "cancelling" else "running now"
            tried[number] = Tried(number, event.time, None, words, device, "")
        elif number in tried and state != "cancelling":
            begun = tried[number]
            device, log = told.get("device") or begun.device, told.get("log", "")
            tried[number] = Tried(number, begun.began, event.time, _how(job, told), device, log)
    return sorted(tried.values(), key=lambda one: -one.number)


def attempts_html(job: JobRow, tried: Sequence[Tried], read: Callable[[int], str]) -> str:
    """Return the attempts with their logs; `read` gives what the file of an attempt's log ends with."""
    if not tried:
        return ""
    shown = tried[:MOST_SHOWN]
    lines = "".join(_line(job, one) for one in shown)
    heads = "".join(f"<th>{word}</th>" for word in ("Attempt", "Began", "Took", "Ran on", "Ended", ""))
    more = f'<p class="lab-muted lab-small">and {len(tried) - len(shown)} earlier</p>'
    logs = "".join(
        _log(job, one, read(one.number) if place < MOST_READ else "") for place, one in enumerate(shown)
    )
    table = (
        f'<table class="lab-table lab-attempts"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    )
    return f"{table}{more if len(tried) > len(shown) else ''}{logs}"


def log_address(job_id: str, number: int) -> str:
    """Return where the log of an attempt is downloaded, relative to the page."""
    return f"jobs/{job_id}/attempts/{number}.log"


def _line(job: JobRow, one: Tried) -> str:
    cells = (
        ("Attempt", str(one.number)),
        ("Began", f"{datetime.fromtimestamp(one.began).astimezone():%H:%M:%S}"),
        ("Took", duration(one.ended - one.began) if one.ended else ""),
        ("Ran on", one.device),
    )
    plain = "".join(f'<td data-label="{name}">{esc(value)}</td>' for name, value in cells)
    link = (
        f'<a class="lab-button" href="{esc(log_address(job.id, one.number))}" download '
        f'aria-label="Download the log of attempt {one.number}">Download log</a>'
    )
    ended = f'<td class="lab-wide lab-break" data-label="Ended">{esc(one.how)}</td>'
    return f'<tr class="lab-row">{plain}{ended}<td class="lab-wide">{link}</td></tr>'


def _log(job: JobRow, one: Tried, text: str) -> str:
    words = text or one.last_lines or "Nothing written."
    inside = f'<pre class="lab-log">{esc(words)}</pre>'
    return widgets.fold(f"Log of attempt {one.number}", inside, f"log-{job.id}-{one.number}")


def _how(job: JobRow, told: dict[str, str]) -> str:
    """Say how an attempt ended: its cause in words, and what became of the job."""
    why = told.get("why", "")
    match told["state"]:
        case "queued":
            return f"cut off: {why}; the job was queued again"
        case "failed":
            exit_words = f" ({told['exit']})" if told.get("exit") else ""
            return f"failed{exit_words}: {job.error_text or why}"
        case "succeeded":
            return f"done: {why}" if why else "done"
        case _:
            return f"cancelled: {why}" if why else "cancelled"
