"""The part of the Fine-tune page that shows a fine-tune under way: card, figures, curve, log, result."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from lab.core.store.rows import JobRow
from lab.ui import charts, jobview, modelview, widgets
from lab.ui.pages.running import Running
from lab.ui.redraw import Seen, only_changed
from lab.ui.services import Services
from lab.ui.tailing import Curves
from lab.ui.words import time_left

Lines = Mapping[str, Sequence[charts.Point]]


class Learning(Running):
    """Handlers for the running fine-tune.

    Args:
        services: the store and the desk.
        inputs: the components of the job's id and of what was sent last.
        outputs: card, panel, chips, chart, log and what was sent last.
    """

    def __init__(self, services: Services, inputs: list[Any], outputs: list[Any]) -> None:
        super().__init__(services, ("tune",), "job_tune", self._links)
        self.curves = Curves(services.desk)
        self.inputs = inputs
        self.outputs = outputs

    @property
    def wires(self) -> tuple[list[Any], list[Any]]:
        """The inputs and outputs of `draw`."""
        return self.inputs, self.outputs

    def draw(self, job_id: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:  # noqa: ARG002  a Part
        """Draw card, figures, curve and log as they are now, and send what changed."""
        job = self.job(job_id)
        if job is None:
            return *(gr.skip() for _ in range(5)), seen
        lines = self.curves.of(job)
        said = self.services.store.events.newest(job.id, jobview.MOST_EVENTS)
        figure = charts.loss_chart(lines) if lines else None
        log = widgets.fold("Log", jobview.event_list(said), f"tune-log-{job.id}")
        card, chips, shown, log, digests = only_changed(
            seen, self.html(job_id), _chips(job, lines), figure, log
        )
        panel = gr.Column(visible=True) if shown is figure and figure is not None else gr.skip()
        return card, panel, chips, shown, log, digests

    def _links(self, name: str) -> str:
        row = next((one for one in self.services.store.models.list() if one.name == name), None)
        if row is None:
            return ""
        return modelview.result_links(row)


def _chips(job: JobRow, lines: Lines) -> str:
    last = {name: points[-1][1] for name, points in lines.items() if points}
    steps = max((points[-1][0] for points in lines.values() if points), default=0)
    told = [
        f"step {steps:g}" if steps else "",
        _figure("loss {:.3f}", last.get("loss")),
        _figure("evaluation loss {:.3f}", last.get("eval_loss")),
        _figure("{:,.0f} tokens/s", last.get("tokens_per_second")),
        time_left(job.seconds_left) if job.state == "running" else "",
        job.device,
    ]
    return widgets.chips(told)


def _figure(words: str, value: float | None) -> str:
    return words.format(value) if value is not None else ""
