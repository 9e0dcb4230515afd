"""The data step of the Fine-tune page: choose, upload or take a sample; see the verdict and the tokens."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.spec import free_name
from lab.core.store.rows import DatasetRow, JobRow
from lab.data.importing import import_dataset
from lab.data.samples import sample_datasets
from lab.data.spec import PreviewSpec
from lab.ui import dataview, modelview, widgets
from lab.ui.modelview import HOUSE
from lab.ui.redraw import Part, Seen, only_changed, when_page_opens
from lab.ui.services import Services, Who
from lab.ui.waiting import waiting_words


def lay_out_data(services: Services) -> tuple[Any, Any, Callable[[Any], Part]]:
    """Lay out the step.

    Returns:
        The component that holds the chosen dataset's name, the step itself, and what binds the
        preview: it is given the component that holds the model's name, and gives what ticks.
    """
    page = _Data(services)
    with gr.Accordion("1 · Data", open=True, elem_classes=["lab-panel", "lab-adding"]) as step:
        samples = widgets.board(_sample_buttons())
        with gr.Row(equal_height=True, elem_classes="lab-bottom"):
            dataset = gr.Dropdown(label="Examples", choices=[], elem_id="lab-tune-data", scale=3)
            upload = gr.UploadButton(
                "Upload a JSONL file",
                file_types=[".jsonl", ".json", ".txt"],
                size="md",
                elem_id="lab-tune-upload",
            )
            look = gr.Button("Show as tokens", size="md", elem_id="lab-tune-preview")
        verdict = widgets.picture(elem_id="lab-tune-verdict")
        tokens = widgets.picture(elem_id="lab-tune-tokens")
    drawn = [dataset, verdict]
    upload.upload(page.upload, [upload], drawn, api_name="data_upload", show_progress="minimal")
    samples.click(page.take_sample, None, drawn, api_name="data_sample", show_progress="hidden")
    dataset.input(page.choose, [dataset], [verdict], api_name="data_choose", show_progress="hidden")
    when_page_opens(page.open, None, drawn, "data_open")

    def bind_preview(model: Any) -> Part:
        job, seen = gr.State(""), gr.State(())
        look.click(
            page.preview, [dataset, model], [job, tokens], api_name="data_preview", show_progress="hidden"
        )
        return Part(page.draw, [job, seen], [tokens, seen])

    return dataset, step, bind_preview


class _Data:
    """The step's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the datasets, the newest chosen."""
        sample = request.query_params.get("sample", "")
        if any(one.name == sample for one in sample_datasets()):
            return self._take(sample, self.services.who(request))
        rows = datasets(self.services, self.services.who(request))
        return self._chosen(rows, rows[0] if rows else None, "")

    def choose(self, dataset: str, request: gr.Request) -> str:
        """Show what is known of a dataset."""
        rows = datasets(self.services, self.services.who(request))
        return next((dataview.verdict_html(row) for row in rows if row.name == dataset), "")

    def upload(self, path: str, request: gr.Request) -> tuple[Any, ...]:
        """Check an uploaded file, keep its good rows, and list the bad ones."""
        file = Path(path)
        return self._bring(file, modelview.name_of(file.stem), self.services.who(request))

    def take_sample(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Bring a dataset that ships with the lab, or choose it where it is there already."""
        return self._take(widgets.pressed(event)[1], self.services.who(request))

    def _take(self, name: str, who: Who) -> tuple[Any, ...]:
        rows = datasets(self.services, who)
        known = next((row for row in rows if row.name == name), None)
        if known is not None:
            return self._chosen(rows, known, dataview.verdict_html(known))
        sample = next(one for one in sample_datasets() if one.name == name)
        return self._bring(sample.path, name, who)

    def preview(self, dataset: str, model: str, request: gr.Request) -> tuple[Any, ...]:
        """Ask for the first rows as the model's tokens."""
        try:
            who = self.services.who(request)
            bases = modelview.bases(modelview.visible(self.services.store, who))
            spec = PreviewSpec(dataset=dataset or "", model=model or next(iter(bases), ""))
            job = self.services.desk.submit(spec, who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return "", widgets.problem_list(problems_of(error))
        return job.id, widgets.progress_line(job)

    def draw(self, job_id: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:  # noqa: ARG002  a Part
        """Draw the preview when it is there; until then, how far it is."""
        if not job_id:
            return gr.skip(), seen
        job = self.services.store.jobs.get(job_id)
        return only_changed(seen, _preview(job, waiting_words(self.services, [job]).get(job_id, "")))

    def _bring(self, file: Path, wish: str, who: Who) -> tuple[Any, ...]:
        store = self.services.store
        name = free_name(wish, [row.name for row in store.datasets.list()])
        try:
            folder, keep = self.services.settings.datasets, self.services.catalog.keep_dataset
            row, verdict = import_dataset(file, name, who.name, store, folder, keep)
        except LabError as error:
            return gr.skip(), widgets.problem_list(problems_of(error))
        return self._chosen(datasets(self.services, who), row, dataview.verdict_html(row, verdict))

    def _chosen(self, rows: list[DatasetRow], row: DatasetRow | None, html: str) -> tuple[Any, ...]:
        known = html or (dataview.verdict_html(row) if row else "")
        return gr.Dropdown(choices=[one.name for one in rows], value=row.name if row else None), known


def datasets(services: Services, who: Who) -> list[DatasetRow]:
    """Return the examples that somebody may learn from, the newest first."""
    return [
        row
        for row in services.store.datasets.list()
        if "rows" in row.facts and (not who.is_visitor or row.owner in (who.name, HOUSE))
    ]


def _preview(job: JobRow, waits: str) -> str:
    if job.state == "succeeded":
        return dataview.tokens_html(job.result)
    return widgets.failure(job) or widgets.progress_line(job, waits)


def _sample_buttons() -> str:
    buttons = "".join(
        f'<span class="lab-sample">{widgets.button(f"Use the {one.name} examples", "sample", one.name)}'
        f'<span class="lab-muted lab-small">{widgets.esc(one.words)}</span></span>'
        for one in sample_datasets()
    )
    return f'<div class="lab-samples">{buttons}</div>'
