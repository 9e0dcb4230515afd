"""What may move in a search, as lines that people write; and a search's figures in words. Pure.

A line reads "weight of pirate: 0 to 1", or "density: 0.1 to 1 in 3 points" for a gradient over the layers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.errors import BadInput, Problem
from lab.core.store.rows import JobRow
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec
from lab.score.metric import metrics
from lab.search.spec import Range, numbers_of
from lab.ui import widgets
from lab.ui.liverecipes import words_of

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LINE = re.compile(
    rf"^(?P<knob>\w+)(?: of (?P<model>[A-Za-z0-9._-]+))?\s*:\s*(?P<low>{_NUMBER}) to (?P<high>{_NUMBER})"
    r"(?: in (?P<points>\d+) points?)?$"
)
_SHAPE = "A line reads `weight of pirate: 0 to 1`, or `density: 0.1 to 1 in 3 points` along the layers."
_MOVES_AT_FIRST = ("weight", "density", "select_topk", "t")


def lines_for(recipe: MergeSpec) -> str:
    """Return the lines to start with: the weights, and how much of each change is kept."""
    method = merge_methods[recipe.method]
    lines = []
    for knob in (knob for knob in _MOVES_AT_FIRST if knob in numbers_of(method)):
        own = [source.model for source in recipe.models if knob in source.parameters]
        least = "0" if knob in ("weight", "t") else "0.1"
        lines += [f"{knob} of {model}: {least} to 1" for model in dict.fromkeys(own)]
        if not own and knob in recipe.parameters:
            lines.append(f"{knob}: {least} to 1")
    return "\n".join(lines)


def read_lines(text: str) -> tuple[Range, ...]:
    """Read what may move.

    Raises:
        BadInput: a line is none, or there is none; says which.
    """
    ranges = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.match(" ".join(line.split()))
        if match is None:
            raise BadInput(f"Line {number} is {line.strip()[:60]!r}.", _SHAPE, "Mend the line.", field="vary")
        ranges.append(
            Range(
                knob=match["knob"],
                model=match["model"],
                low=float(match["low"]),
                high=float(match["high"]),
                points=int(match["points"] or 1),
            )
        )
    if not ranges:
        raise BadInput("Nothing may move.", _SHAPE, "Write at least one line.", field="vary")
    return tuple(ranges)


def found_html(job: JobRow) -> str:
    """Say what a finished search found, with the button that merges it; nothing before."""
    found: Mapping[str, Any] = job.result or {}
    if job.state != "succeeded" or "recipe" not in found:
        return ""
    metric = metrics[found["metric"]]
    figures = widgets.figures(
        [
            (f"Best {metric.label.lower()}", _figure(found["score"])),
            ("As it was given", _figure(found["start_score"])),
            ("Trial", f"{found['best_trial']} of {found['trials']}"),
        ]
    )
    recipe = MergeSpec.model_validate(found["recipe"])
    merge = widgets.button("Merge the best", "merge_best", job.id, look="primary")
    words = f'<p class="lab-break">{widgets.esc(words_of(recipe))}</p>'
    return f'<div class="lab-card lab-list">{figures}{words}<div class="lab-buttons">{merge}</div></div>'


def without_paths(problems: Sequence[Problem]) -> list[Problem]:
    """Return a search's problems without the path to them: what is at fault is said in words."""
    return [Problem("", one.message) for one in problems]


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
