"""A job as HTML: its row, its events, its log, its recipe, and the buttons that are legal now."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lab.core.events import Event
from lab.core.line import FIRST, HIGH, LOW, NORMAL
from lab.core.store.rows import JobRow
from lab.jobs import KINDS
from lab.ui import widgets
from lab.ui.services import person_words
from lab.ui.widgets import esc
from lab.ui.words import ago, duration, percent

MOST_EVENTS = 200


def row(
    job: JobRow, now: float, made: Sequence[str] = (), detail: str = "", waits: str = "", moves: str = ""
) -> str:
    """Return one job of the list; with a detail it is drawn open.

    Args:
        job: the job.
        now: the database's present.
        made: the models that it made.
        detail: HTML of the open row (see `detail`).
        waits: what a waiting job waits for, in words.
        moves: HTML of the buttons that move it in the line (see `move_buttons`).
    """
    is_open = "lab-open" if detail else ""
    inside = f'<div class="lab-job-detail">{detail}</div>' if detail else ""
    return (
        f'<article class="lab-job {is_open}{" lab-movable" if moves else ""}" data-job="{esc(job.id)}">'
        f'<button type="button" class="lab-job-row" data-do="open" data-id="{esc(job.id)}" '
        f'aria-expanded="{"true" if detail else "false"}">'
        f"<span>{widgets.state_badge(job)}</span>"
        f'<span><span class="lab-job-title">{esc(job.title)}</span><br>'
        f'<span class="lab-muted lab-small">{esc(job.kind)} · {esc(person_words(job.owner))}</span></span>'
        f'<span class="lab-muted lab-small">{_since(job, now)}</span>'
        f"<span>{_how_far(job, made, waits)}</span>"
        f'<span class="lab-chevron" aria-hidden="true">›</span></button>{moves}{inside}</article>'
    )


def detail(
    job: JobRow, events: Sequence[Event], attempts: str, *, is_mine: bool = True, is_operator: bool = False
) -> str:
    """Return what an open row shows; `attempts` is HTML already (see attempts_html)."""
    shown = (buttons(job) if is_mine else "") + line_buttons(job, is_mine=is_mine, is_operator=is_operator)
    facts = widgets.facts(
        [
            ("Job", job.id),
            ("Runs on", job.device),
            ("Attempt", f"{job.attempt}, {job.crash_count} crashed" if job.crash_count else str(job.attempt)),
            ("Repeats", job.parent_id or ""),
            ("Recipe", job.spec_sha256[:16]),
            ("Result", _result_words(job)),
        ]
    )
    parts = [
        widgets.failure(job),
        f'<div class="lab-buttons">{shown}</div>' if shown else "",
        facts,
        attempts,
        widgets.fold(f"Events ({job.last_seq})", event_list(events), f"events-{job.id}"),
        widgets.fold(
            "Recipe",
            f'<pre class="lab-log">{esc(json.dumps(job.spec, indent=2, ensure_ascii=False))}</pre>',
            f"recipe-{job.id}",
        ),
    ]
    return "".join(parts)


def buttons(job: JobRow) -> str:
    """Return the buttons that are legal in the job's state, and no others."""
    shown = []
    if job.state == "running" and KINDS[job.kind].stoppable and not job.stop_requested:
        shown.append(widgets.button("Stop and keep", "stop", job.id))
    if job.state in ("queued", "running"):
        shown.append(widgets.button("Cancel", "cancel", job.id, look="danger", sure="Really cancel?"))
    if job.is_terminal:
        shown.append(widgets.button("Run again", "retry", job.id))
    return "".join(shown)


def move_buttons(job: JobRow, *, is_top: bool, is_last: bool) -> str:
    """Return the two small buttons that move an own waiting job among its owner's waiting jobs."""
    up = _arrow(job, "up", "Move up", "↑", is_off=is_top)
    down = _arrow(job, "down", "Move down", "↓", is_off=is_last)
    return f'<span class="lab-moves">{up}{down}</span>'


def line_buttons(job: JobRow, *, is_mine: bool, is_operator: bool) -> str:
    """Return what else may be done with a waiting job: its priority, and an operator's way to the front."""
    if job.state != "queued":
        return ""
    if job.priority >= FIRST:
        return widgets.badge("put first by an operator", "warm")
    shown = ""
    if is_mine:
        choices = "".join(
            f'<button type="button" class="lab-button" data-do="prefer" data-id="{esc(job.id)} {level}" '
            f'aria-pressed="{"true" if job.priority == level else "false"}">{words}</button>'
            for level, words in ((HIGH, "High"), (NORMAL, "Normal"), (LOW, "Low"))
        )
        shown = (
            f'<span class="lab-choice" role="group" aria-label="Priority among your own jobs">'
            f'<span class="lab-muted lab-small">Priority among your jobs</span>{choices}</span>'
        )
    return shown + (widgets.button("Run before all others", "first", job.id) if is_operator else "")


def event_list(events: Sequence[Event]) -> str:
    """Return events as lines, newest first; text deltas are left to the page that shows answers."""
    told = [event for event in events if event.kind not in ("delta", "metric", "figures")][-MOST_EVENTS:]
    lines = "".join(
        f'<li><span class="lab-muted">{datetime.fromtimestamp(event.time).astimezone():%H:%M:%S}</span>'
        f'<span class="lab-muted">{esc(event.kind)}</span><span>{esc(event_words(event))}</span></li>'
        for event in reversed(told)
    )
    return f'<ol class="lab-events">{lines}</ol>'


def event_words(event: Event) -> str:
    """Say one event in words."""
    told = event.payload
    match event.kind:
        case "state":
            return " · ".join(str(part) for part in (told.get("state", ""), told.get("why", "")) if part)
        case "progress":
            return f"{percent(told.get('fraction', 0))} {told.get('words', '')}"
        case "column":
            return f"column {told.get('column', 0) + 1}: {told.get('phase', '')}"
        case "artifact":
            return f"made {told.get('model', '')}"
        case _:
            return str(told.get("text", ""))


def live_card(job: JobRow, links: str = "", *, is_mine: bool = True, waits: str = "") -> str:
    """Return a job's progress with its buttons, for the page that started it; links lead to its result.

    A job that is not the reader's own has no buttons. `waits` says what a waiting job waits for.
    """
    own = f'{buttons(job)}<a class="lab-button" href="?view=jobs&amp;job={esc(job.id)}">Open in Jobs</a>'
    return (
        f'<div class="lab-card lab-list" style="gap:12px" data-job="{esc(job.id)}">'
        f'<div class="lab-buttons">{widgets.state_badge(job)}'
        f'<span class="lab-job-title lab-break">{esc(job.title)}</span></div>'
        f"{widgets.progress_line(job, waits) if not job.is_terminal else ''}{widgets.failure(job)}"
        f'<div class="lab-buttons">{links}{own if is_mine else ""}</div></div>'
    )


def _since(job: JobRow, now: float) -> str:
    return f"{esc(ago(job.created, now))}"


def _arrow(job: JobRow, do: str, words: str, sign: str, *, is_off: bool) -> str:
    off = " disabled" if is_off else ""
    return (
        f'<button type="button" class="lab-button lab-arrow" data-do="{do}" data-id="{esc(job.id)}" '
        f'data-key="{do}-{esc(job.id)}" title="{words}" aria-label="{words}: {esc(job.title)}"{off}>'
        f"{sign}</button>"
    )


def _how_far(job: JobRow, made: Sequence[str], waits: str) -> str:
    if not job.is_terminal:
        return widgets.progress_line(job, waits)
    if job.state == "failed":
        return f'<span class="lab-small lab-problem">{esc(_first_sentence(job.error_text or ""))}</span>'
    span = (job.finished or job.created) - (job.started or job.created)
    words = f"took {duration(span)}" if job.started else "before it started"
    made_words = f" · made {', '.join(made)}" if made else ""
    return f'<span class="lab-muted lab-small lab-break">{esc(words + made_words)}</span>'


def _first_sentence(text: str) -> str:
    head, dot, _ = text.partition(". ")
    return head + dot.strip()


def _result_words(job: JobRow) -> str:
    figures: Mapping[str, Any] = job.result
    plain = [
        f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if isinstance(value, int | str)
    ]
    return ", ".join(plain)[:200]
