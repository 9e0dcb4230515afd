"""The maps of a look into models: choose a view, click a cell, see the tensor's figures and its changes.

Used before a merge and after it; what job they show is the page's business.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

import gradio as gr

from lab.core.store.rows import JobRow
from lab.jobs import Desk
from lab.merge.inspect.report import Figures, Report
from lab.ui import kinshipcharts, kinshipview, widgets

_KEPT = 8

_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (button) trigger('click', {do: button.dataset.do, id: button.dataset.id || ''});
});
const bind = () => {
  const picture = document.querySelector('#MAP .js-plotly-plot');
  if (!picture || !picture.on || picture.dataset.bound) return;
  picture.dataset.bound = 'yes';
  picture.on('plotly_click', (event) => {
    const cell = event.points.map((point) => point.customdata).find((one) => typeof one === 'string');
    if (cell) trigger('click', {do: 'cell', id: cell});
  });
};
new MutationObserver(bind).observe(document.body, {childList: true, subtree: true});
"""


class Reports:
    """Puts together what finished looks told; the last few are kept.

    Args:
        desk: follows the jobs.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._kept: OrderedDict[str, Report] = OrderedDict()
        self._lock = Lock()

    def of(self, job: JobRow) -> Report | None:
        """Return the report of a job that has succeeded; None where it told nothing."""
        with self._lock:
            if job.id not in self._kept:
                report = self._read(job)
                if report is None:
                    return None
                self._kept[job.id] = report
            self._kept.move_to_end(job.id)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[job.id]

    def _read(self, job: JobRow) -> Report | None:
        figures: dict[str, Figures] = {}  # an attempt after a crash tells everything again
        seq = 0
        while events := self.desk.follow(job.id, seq):
            seq = events[-1].seq
            for event in events:
                if event.kind == "figures":
                    figures |= {one["name"]: Figures.from_json(one) for one in event.payload["tensors"]}
        if not figures:
            return None
        spec = job.spec
        left_out = tuple(job.result.get("left_out", ()))
        return Report(spec["base"], tuple(spec["models"]), list(figures.values()), spec["purpose"], left_out)


@dataclass(frozen=True)
class Maps:
    """The components, in the order of `outputs`."""

    body: Any
    view: Any
    plot: Any
    board: Any
    figures: Any
    changes: Any
    cell: Any

    @property
    def outputs(self) -> list[Any]:
        """What `drawn` and `hidden` give values for."""
        return [self.body, self.view, self.plot, self.board, self.figures, self.changes]


def lay_out(prefix: str) -> Maps:
    """Make the components, hidden until there is something to show.

    Args:
        prefix: begins their ids: "lab-before".
    """
    with gr.Column(visible=False, elem_classes="lab-chart") as body:
        # Any value: a look that is under way still has a map of the models before.
        view = gr.Dropdown(
            label="Layer by layer", choices=[], elem_id=f"{prefix}-view", info="Click a cell for its tensor.",
            allow_custom_value=True,
        )  # fmt: skip
        plot = gr.Plot(show_label=False, container=False, elem_id=f"{prefix}-map")
        board = gr.HTML(
            js_on_load=_CLICKS.replace("MAP", f"{prefix}-map"),
            apply_default_css=False,
            elem_id=f"{prefix}-outside",
        )
        figures = widgets.picture(elem_id=f"{prefix}-cell")
        changes = gr.Plot(show_label=False, container=False, elem_id=f"{prefix}-changes")
    return Maps(body, view, plot, board, figures, changes, gr.State(""))


def hidden() -> tuple[Any, ...]:
    """Return updates that hide the maps."""
    return gr.Column(visible=False), *(gr.skip() for _ in range(5))


def drawn(report: Report, view: str | None, cell: str) -> tuple[Any, ...]:
    """Return updates that show a report.

    Args:
        report: what was found.
        view: the key of the chosen map; one that the report doesn't have becomes the first.
        cell: the chosen place, as `kinshipcharts.cell_key` writes it; "" is all tensors.
    """
    offered = kinshipcharts.views(report)
    chosen = next((one for one in offered if one.key == view), offered[0])
    place = kinshipcharts.place_from(cell)
    place = place if place in report.cells else None
    tally = report.cells[place] if place else report.whole
    against = report.base if report.purpose == "before" else "each parent"
    return (
        gr.Column(visible=True),
        gr.Dropdown(choices=[(one.title, one.key) for one in offered], value=chosen.key),
        kinshipcharts.kinship_map(report, chosen),
        kinshipview.scale_html(kinshipcharts.scale_of(report, chosen))
        + kinshipview.outside_html(report, place),
        kinshipview.cell_html(report, place),
        gr.Plot(
            kinshipcharts.changes_chart(report, tally, f"Sizes of the changes from {against}"),
            visible=any(tally.moved),
        ),
    )


def clicked(event: gr.EventData) -> str:
    """Return the place that was clicked in the map or below it."""
    return widgets.pressed(event)[1]
