"""A comparison as its events tell it: what every column has said so far, and its HTML.

Text of models is escaped while it streams. When an answer has ended it is read as Markdown with raw
HTML, images and unsafe links off, so that what a model writes never becomes markup of its own making.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from lab.core.errors import Problem
from lab.core.events import Event
from lab.ui import widgets
from lab.ui.widgets import esc
from lab.ui.words import duration

STOP_WORDS = {
    "eos": "end",
    "end": "end",
    "length": "cut at the limit",
    "stopped": "stopped",
    "stop": "stopped",
}
PHASE_WORDS = {
    "waiting": "waiting",
    "merging": "merging",
    "reading": "reading",
    "writing": "writing",
    "done": "done",
}


@dataclass
class Column:
    """One model's answer so far."""

    text: str = ""
    phase: str = "waiting"
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """Why there is no answer, or no more of it; "" while all is well."""
        return str(self.figures.get("failure", ""))

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self.phase == "done"


@dataclass
class Transcript:
    """All columns of one run, and the last event that they hold."""

    columns: list[Column]
    seq: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Transcript":
        """Start with an empty column for each model of a stored comparison."""
        return cls([Column() for _ in spec["models"]])

    def add(self, events: Iterable[Event]) -> bool:
        """Take in newer events, in order; return whether there were any."""
        before = self.seq
        for event in events:
            if event.seq <= self.seq:
                continue
            self.seq = event.seq
            self._add(event)
        return self.seq > before

    def close(self) -> None:
        """Mark every column as done: the job has ended."""
        for column in self.columns:
            column.phase = "done"

    @property
    def answers(self) -> tuple[str, ...]:
        """What every model said, in the order of the columns."""
        return tuple(column.text for column in self.columns)

    def _add(self, event: Event) -> None:
        told = event.payload
        if event.kind == "note" and told.get("level") == "warning":
            self.notes.append(str(told.get("text", "")))
        if event.kind not in ("delta", "column") or not 0 <= told.get("column", -1) < len(self.columns):
            return
        column = self.columns[told["column"]]
        if event.kind == "delta":
            column.text += told["text"]
            column.phase = "writing" if column.phase != "done" else "done"
        else:
            column.phase = told.get("phase", column.phase)
            column.figures |= {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Head:
    """What stands over a column: the model's name and where it comes from, in words."""

    name: str
    words: str = ""


def columns_html(
    key: str, spec: Mapping[str, Any], transcript: Transcript, heads: Sequence[Head], elapsed: float = 0.0
) -> str:
    """Draw all columns of a run.

    Args:
        key: the run's id; it goes into the address.
        spec: the stored spec: prompt, models, earlier turns.
        transcript: what was said.
        heads: one for each column.
        elapsed: seconds since the question was asked, where the clocks start.
    """
    drawn = "".join(
        _column(place, head, column, _turns(spec, place), spec["prompt"], (f"{key}-{place}", elapsed))
        for place, (head, column) in enumerate(zip(heads, transcript.columns, strict=True))
    )
    said = [column.failure for column in transcript.columns if column.failure]
    news = [words for words in transcript.notes if not any(words.endswith(one) for one in said)]
    notes = "".join(widgets.note(words, "warm") for words in news)
    address = f'data-address="run" data-value="{esc(key)}"'
    return f'<div class="lab-columns" style="--n:{len(heads)}" {address}>{drawn}</div>{notes}'


def empty_columns(heads: Sequence[Head], words: str) -> str:
    """Draw columns that wait for the first question."""
    drawn = "".join(
        f'<article class="lab-card lab-column" data-column="{place}"><header>{_name(place, head)}</header>'
        f'<p class="lab-muted">{esc(words)}</p></article>'
        for place, head in enumerate(heads)
    )
    return f'<div class="lab-columns" style="--n:{len(heads)}">{drawn}</div>'


@lru_cache(maxsize=512)
def as_markdown(text: str) -> str:
    """Read text as Markdown; whatever HTML it holds is shown as text, never obeyed."""
    return str(_READER.render(text))


def _column(
    place: int, head: Head, column: Column, earlier: str, prompt: str, clock: tuple[str, float]
) -> str:
    shown = as_markdown(column.text) if column.is_done else esc(column.text)
    look = "" if column.is_done else " lab-plain"
    caret = " lab-caret" if column.phase == "writing" else ""
    asked = f'<div class="lab-asked">{esc(prompt)}</div>'
    failure = widgets.problem_list([Problem("", column.failure)] if column.failure else [])
    return (
        f'<article class="lab-card lab-column" data-column="{place}" data-phase="{esc(column.phase)}">'
        f'<header>{_name(place, head)}<div class="lab-chips">{_chips(column, clock)}</div></header>'
        f'{earlier}{asked}<div class="lab-answer{look}{caret}" aria-live="off">{shown}</div>'
        f"{failure}</article>"
    )


def _name(place: int, head: Head) -> str:
    return (
        f'<div class="lab-column-name">{widgets.letter(place)}<div><strong>{esc(head.name)}</strong>'
        f"<small>{esc(head.words)}</small></div></div>"
    )


def _turns(spec: Mapping[str, Any], place: int) -> str:
    return "".join(
        f'<div class="lab-asked">{esc(turn["prompt"])}</div>'
        f'<div class="lab-answer">{as_markdown(turn["answers"][place])}</div>'
        for turn in spec.get("earlier", ())
    )


def _chips(column: Column, clock: tuple[str, float]) -> str:
    told = column.figures
    chips = []
    if "merge_seconds" in told:
        took = told["merge_seconds"]
        chips.append(widgets.chip(f"merged in {duration(took)}" if took else "merged before"))
    if "first_token_seconds" in told:
        chips.append(widgets.chip(f"first token {duration(told['first_token_seconds'])}"))
    elif not column.is_done:
        words = PHASE_WORDS.get(column.phase, column.phase)
        chips.append(f'<span class="lab-chip">{esc(words)} {widgets.clock(*clock)}</span>')
    if "tokens_per_second" in told:
        chips.append(widgets.chip(f"{told['tokens_per_second']:.1f} tok/s"))
    if "tokens" in told:
        chips.append(widgets.chip(f"{told['tokens']} token{'s' * (told['tokens'] != 1)}"))
    if column.is_done:
        reason = str(told.get("stop_reason", "ended early"))
        chips.append(widgets.chip(STOP_WORDS.get(reason, reason.replace("_", " "))))
    elif column.phase == "writing":
        chips.append('<span class="lab-badge lab-live"><i class="lab-dot"></i>writing</span>')
    return "".join(chips)


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")
    reader.add_render_rule("link_open", _outside_link)
    return reader


def _outside_link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    tokens[index].attrSet("target", "_blank")
    return str(renderer.renderToken(tokens, index, options, env))


_READER = _reader()
