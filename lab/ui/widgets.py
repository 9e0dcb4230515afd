"""The small pieces that all pages share: badges, letters, chips, progress, empty states, problems.

Every function gives back HTML text in which everything that came from outside is escaped. The one
component made here is `board`: HTML whose buttons can be pressed.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from lab.core.errors import Problem
from lab.core.store.rows import JobRow
from lab.ui.words import percent, time_left

LETTERS = "ABCDEFGH"

_PRESS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button || !window.crucible.sure(button)) return;
  trigger('click', {do: button.dataset.do, id: button.dataset.id || ''});
});
"""

_STATE_LOOKS = {
    "queued": ("calm", "waiting"),
    "running": ("live", "running"),
    "cancelling": ("warm", "cancelling"),
    "succeeded": ("good", "done"),
    "failed": ("bad", "failed"),
    "cancelled": ("calm", "cancelled"),
}

_KIND_LOOKS = {"base": "calm", "adapter": "live", "tuned": "live", "merge": "warm", "upscaled": "warm"}


def esc(text: object) -> str:
    """Escape anything for HTML text and attributes."""
    return escape(str(text), quote=True)


def board(value: str = "", **arguments: Any) -> Any:
    """Make an HTML component whose elements with `data-do` can be pressed.

    Its `click` event carries `do` and `id`; read them with `pressed`.
    """
    return gr.HTML(value, js_on_load=_PRESS, apply_default_css=False, **arguments)


def picture(value: str = "", **arguments: Any) -> Any:
    """Make an HTML component that is only looked at."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False, **arguments)


def pressed(event: Any) -> tuple[str, str]:
    """Return which button of a board was pressed, and what it is about."""
    data = event._data if isinstance(event._data, Mapping) else {}
    return str(data.get("do", "")), str(data.get("id", ""))


def head(title: str, words: str) -> str:
    """Return a page's title and the one sentence on what it is for."""
    return f'<div class="lab-head"><h1>{esc(title)}</h1><p>{esc(words)}</p></div>'


def badge(words: str, look: str = "calm") -> str:
    """Return a small coloured word; looks are calm, live, warm, good and bad."""
    return f'<span class="lab-badge lab-{esc(look)}">{esc(words)}</span>'


def kind_badge(kind: str) -> str:
    """Return the badge of a model's kind."""
    return badge(kind, _KIND_LOOKS.get(kind, "calm"))


def state_badge(job: JobRow) -> str:
    """Return the badge of a job's state, as it is in the database."""
    look, words = _STATE_LOOKS[job.state]
    if job.state == "succeeded" and job.stopped_early:
        words = "stopped, kept"
    dot = '<i class="lab-dot"></i>' if job.state in ("running", "cancelling") else ""
    return f'<span class="lab-badge lab-{look}" data-state="{job.state}">{dot}{words}</span>'


def letter(index: int) -> str:
    """Return the coloured square with a model's letter: A, B, C..."""
    return f'<span class="lab-letter lab-letter-{index % 8}">{LETTERS[index % 8]}</span>'


def chip(words: str) -> str:
    """Return one figure in a rounded frame."""
    return f'<span class="lab-chip">{esc(words)}</span>'


def chips(words: Iterable[str]) -> str:
    """Return figures side by side."""
    return f'<div class="lab-chips">{"".join(chip(one) for one in words if one)}</div>'


def clock(key: str, seconds: float) -> str:
    """Return a clock that the browser runs on from `seconds`."""
    return (
        f'<span class="lab-clock" data-key="{esc(key)}" data-seconds="{seconds:.1f}">{seconds:.1f} s</span>'
    )


def button(words: str, do: str, about: str = "", *, look: str = "", sure: str = "") -> str:
    """Return a button for a board.

    Args:
        words: a verb.
        do: what the handler is told.
        about: the id it is told with it.
        look: "primary", "danger" or nothing.
        sure: where given, the question asked before the button works.
    """
    ask = f' data-sure="{esc(sure)}"' if sure else ""
    style = f" lab-{look}" if look else ""
    return (
        f'<button type="button" class="lab-button{style}" data-do="{esc(do)}" data-id="{esc(about)}"{ask}>'
        f"{esc(words)}</button>"
    )


def empty_state(title: str, words: str, actions: str = "") -> str:
    """Return what a page shows when there is nothing yet: what it is for, and the next step."""
    return (
        f'<div class="lab-card lab-empty"><h2>{esc(title)}</h2><p>{esc(words)}</p>'
        f'<div class="lab-buttons">{actions}</div></div>'
    )


def progress_line(job: JobRow, waits: str = "") -> str:
    """Return the bar of a live job with what it does and the time left; `waits` is what it waits for."""
    share = min(max(job.progress, 0.0), 1.0)
    idle = waits or job.waits_for or "waiting for a free worker"
    words = idle if job.state == "queued" else job.progress_words or "starting"
    look = "lab-break" if job.state == "queued" else "lab-clip"
    left = time_left(job.seconds_left) if job.state == "running" else ""
    figures = " · ".join(part for part in (percent(share) if job.state != "queued" else "", left) if part)
    return (
        f'<div class="lab-progress"><div class="lab-progress-line"><span class="{look}">{esc(words)}</span>'
        f"<span>{esc(figures)}</span></div>"
        f'<div class="lab-track" role="progressbar" aria-valuenow="{round(100 * share)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{esc(job.title)}">'
        f'<i style="width:{100 * share:.1f}%"></i></div></div>'
    )


def problem_list(problems: Sequence[Problem]) -> str:
    """Return problems as a list; nothing where there are none."""
    if not problems:
        return ""
    lines = "".join(f"<li>{esc(problem)}</li>" for problem in problems)
    return f'<ul class="lab-problems" role="alert">{lines}</ul>'


def problem_line(problems: Sequence[Problem]) -> str:
    """Return the problems of one field, for the line below it."""
    return "".join(f'<p class="lab-problem" role="alert">{esc(problem.message)}</p>' for problem in problems)


def note(words: str, look: str = "") -> str:
    """Return a sentence with a coloured edge."""
    return f'<div class="lab-note lab-{esc(look or "plain")}">{esc(words)}</div>'


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a row of large figures with their names."""
    cells = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="lab-figures">{cells}</dl>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values in two columns; empty values are left out."""
    cells = "".join(f"<dt>{esc(name)}</dt><dd>{esc(value)}</dd>" for name, value in pairs if value)
    return f'<dl class="lab-facts">{cells}</dl>'


def fold(title: str, inside: str, key: str) -> str:
    """Return a part that opens; `inside` is HTML already. It stays as the reader left it."""
    return (
        f'<details class="lab-fold" data-key="{esc(key)}"><summary>{esc(title)}</summary>{inside}</details>'
    )


def failure(job: JobRow) -> str:
    """Return why a job failed, in the words of the job."""
    if job.state != "failed":
        return ""
    return problem_list([Problem("", job.error_text or "The job failed without saying why.")])
