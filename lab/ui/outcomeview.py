"""What came of a merge as HTML: what it was to take and took, who is to blame, what there is to ask."""

from collections.abc import Mapping

from lab.core.store.rows import JobRow
from lab.score.blame import Blame
from lab.ui import widgets
from lab.ui.widgets import esc
from lab.ui.words import duration, size

_LOOKS = {"nobody": "", "merge": "warm", "parent": "warm"}


STACKED = widgets.note(
    "Its layers stand in other places than in its parents, so they are not compared layer by layer."
)
"""What is said of a merge whose layers were stacked."""


def cost_html(job: JobRow | None) -> str:
    """Return a table of what the merge was to take and what it took; nothing where it isn't known."""
    cost = job.result.get("cost") if job else None
    if not isinstance(cost, Mapping):
        return ""
    before, real = cost["foretold"], cost["real"]
    computed = f" ({duration(real['cpu_seconds'])} of computing)"
    rows = (
        ("Time", duration(before["seconds"]), duration(real["seconds"]) + computed),
        ("Memory besides the models' files", size(before["memory_bytes"]), size(real["memory_bytes"])),
        ("Disk", size(before["disk_bytes"]), size(real["disk_bytes"])),
    )
    body = "".join(
        f'<tr><td>{esc(name)}</td><td class="lab-num" data-label="Foretold">{esc(told)}</td>'
        f'<td class="lab-num" data-label="Real">{esc(was)}</td></tr>'
        for name, told, was in rows
    )
    return (
        '<table class="lab-table lab-tight"><thead><tr><th>What it took</th><th class="lab-num">Foretold</th>'
        f'<th class="lab-num">Real</th></tr></thead><tbody>{body}</tbody></table>'
        '<span class="lab-muted lab-small">Every value was checked to be finite as it was written.</span>'
    )


def blame_html(verdict: Blame | None) -> str:
    """Return the verdict on merge and parents."""
    return widgets.note(verdict.sentence, _LOOKS[verdict.who]) if verdict else ""


def buttons_html(*, can_look: bool, can_score: bool) -> str:
    """Return what may be asked of a merge and has not been."""
    shown = ""
    if can_look:
        shown += widgets.button("See what the merge changed", "look")
    if can_score:
        shown += widgets.button("Is it the merge, or a parent? Score them all", "blame")
    return f'<div class="lab-buttons">{shown}</div>' if shown else ""
