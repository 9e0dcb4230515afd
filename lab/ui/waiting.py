"""What a waiting job waits for, in words: its place in the line, its start, and what holds it up."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from lab.core.line import Standing
from lab.core.store.rows import JobRow, PauseRow
from lab.ui import widgets
from lab.ui.words import ago, duration

if TYPE_CHECKING:
    from lab.ui.services import Services

LANE_WORDS = {"batch": "merges, fine-tunes, scores and imports", "chat": "comparisons and previews"}

_ORDINALS = (
    "next", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip


def waiting_words(services: "Services", jobs: Sequence[JobRow]) -> dict[str, str]:
    """Say for each of these jobs that waits what it waits for."""
    standings = standings_of(services, jobs)
    paused = services.store.line.pauses() if standings else {}
    return words_for(jobs, standings, paused)


def words_for(
    jobs: Sequence[JobRow], standings: Mapping[str, Standing], paused: Collection[str]
) -> dict[str, str]:
    """Say for each of these jobs that waits what it waits for; `paused` are the lanes that are."""
    waiting = [job for job in jobs if job.state == "queued"]
    return {job.id: words_of(job, standings.get(job.id), job.lane in paused) for job in waiting}


def standings_of(services: "Services", jobs: Sequence[JobRow]) -> dict[str, Standing]:
    """Say where everything stands in the lanes in which any of these jobs waits."""
    standings: dict[str, Standing] = {}
    for lane in sorted({job.lane for job in jobs if job.state == "queued"}):
        standings.update(services.desk.standings(lane))
    return standings


def pause_html(paused: Mapping[str, PauseRow], now: float, *, is_operator: bool) -> str:
    """Return the line above the list: what is paused, in words, and for an operator the switch."""
    words = pause_words(paused, now)
    buttons = _switch(paused) if is_operator else ""
    if not words and not buttons:
        return ""
    note = f'<span class="lab-pause-words">{widgets.esc(words)}</span>' if words else ""
    look = "lab-note lab-warm" if words else "lab-quiet"
    return (
        f'<div class="lab-queue {look}" role="status">{note}<span class="lab-buttons">{buttons}</span></div>'
    )


def _switch(paused: Mapping[str, PauseRow]) -> str:
    going = {lane: words for lane, words in LANE_WORDS.items() if lane not in paused}
    if not going:
        return widgets.button("Resume everything", "resume", look="primary")
    if paused:
        resumes = "".join(widgets.button(f"Resume {LANE_WORDS[lane]}", "resume", lane) for lane in paused)
        return resumes + "".join(widgets.button(f"Pause {going[lane]}", "pause", lane) for lane in going)
    pauses = {"": "everything", **going}
    buttons = "".join(widgets.button(words, "pause", lane) for lane, words in pauses.items())
    return f'<span class="lab-muted lab-small">Pause</span>{buttons}'


def words_of(job: JobRow, standing: Standing | None, is_paused: bool) -> str:
    """Say what one job waits for: "second in line, starts in about 3 min"."""
    if standing is None:
        return "starting"
    place = f"{position_words(standing.position)} in line"
    if is_paused:
        return f"{place}; the queue is paused"
    if job.waits_for:
        return f"{place}, {job.waits_for}"
    return f"{place}, {start_words(standing.starts_in)}"


def position_words(position: int) -> str:
    """Say a place in the line: "next", "second", "12th"."""
    if position <= len(_ORDINALS):
        return _ORDINALS[position - 1]
    tail = "th" if position % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(position % 10, "th")
    return f"{position}{tail}"


def start_words(seconds: float | None) -> str:
    """Say when a job starts, as roughly as it is known."""
    if seconds is None:
        return "its start is not known yet"
    if seconds < 5:
        return "starts in a moment"
    return f"starts in about {duration(_rounded(seconds))}"


def pause_words(
    paused: Mapping[str, PauseRow], now: float, lanes: Collection[str] = tuple(LANE_WORDS)
) -> str:
    """Say in a sentence what is paused, and since when; nothing where nothing is."""
    if not paused:
        return ""
    which = "" if set(lanes) <= set(paused) else f" for {' and '.join(LANE_WORDS[lane] for lane in paused)}"
    since = ago(min(pause.since for pause in paused.values()), now)
    return f"The queue was paused {since}{which}: waiting jobs do not start. Running jobs go on."


def _rounded(seconds: float) -> float:
    """Round to what an estimate is worth: ten seconds, a minute, ten minutes."""
    unit = 5 if seconds < 60 else 60 if seconds < 3600 else 600
    return max(round(seconds / unit), 1) * unit
