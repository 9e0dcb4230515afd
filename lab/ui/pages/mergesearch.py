"""The search on the Merge page: what may move, what to score on; then every trial in a chart, and the winner.

Starts from what the merge form says. The form is the Merge page's, which hands over how to read it.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.spec import free_name
from lab.core.store.rows import JobRow
from lab.merge.spec import MergeSpec
from lab.score.keeping import keep_file
from lab.score.metric import metrics
from lab.score.tasks import LABELS, SHIPPED_CHOICES, SHIPPED_TEXT
from lab.search.spec import SearchSpec
from lab.ui import charts, form, modelview, widgets
from lab.ui.mergeform import Filled
from lab.ui.pages.running import Running
from lab.ui.redraw import Part, Seen, only_changed, when_page_opens
from lab.ui.searchform import found_html, lines_for, read_lines, without_paths
from lab.ui.services import Services, Who
from lab.ui.tailing import Curves

_FIELDS = ("trials", "patience", "sampler", "allow_reference")

Read = Callable[[Sequence[Any]], Filled]


@dataclass(frozen=True)
class Searching:
    """The components of the fold."""

    page: "_Search"
    fold: Any
    lines: Any
    data: Any
    upload: Any
    metric: Any
    settings: form.Form
    merges: Any
    start: Any
    problems: Any
    board: Any
    panel: Any
    chart: Any

    @property
    def inputs(self) -> list[Any]:
        """What `start` reads before the merge form."""
        return [self.lines, self.data, self.metric, self.merges, *self.settings.inputs]


def lay_out(services: Services) -> Searching:
    """Make the fold where the caller's layout stands; nobody sees it in a demo."""
    page = _Search(services)
    with (
        gr.Column(elem_classes="lab-panel", visible=not services.is_demo),
        gr.Accordion(
            "Search for the best weights", open=False, elem_classes="lab-accordion", elem_id="lab-search"
        ) as fold,
    ):
        lines = gr.Textbox(
            label="What may move, and how far", lines=4, max_lines=16, elem_classes="lab-code",
            elem_id="lab-search-lines", info="`in 3 points` makes a gradient over the layers",
        )  # fmt: skip
        data, upload, metric = _lay_out_data()
        with gr.Row():
            settings = form.make_form({name: services.fields(SearchSpec)[name] for name in _FIELDS})
        page.settings = settings
        with gr.Row(equal_height=True, elem_classes="lab-bottom"):
            merges = gr.Checkbox(label="Merge the best when the search ends", elem_id="lab-search-merges")
            start = gr.Button("Search", variant="primary", elem_id="lab-search-start", min_width=140)
        problems = widgets.picture(elem_id="lab-search-problems")
    board = widgets.board(elem_id="lab-search-running")
    with gr.Column(elem_classes="lab-panel lab-chart", visible=False) as panel:
        chart = gr.Plot(show_label=False, container=False, elem_id="lab-search-chart")
    return Searching(
        page, fold, lines, data, upload, metric, settings, merges, start, problems, board, panel, chart
    )


def _lay_out_data() -> tuple[Any, Any, Any]:
    with gr.Row(equal_height=True, elem_classes="lab-bottom"):
        metric = gr.Dropdown(
            label="Score to go by", choices=[(one.label, one.name) for one in metrics.values()],
            value="bits_per_byte", elem_id="lab-search-metric", scale=2,
        )  # fmt: skip
        data = gr.Dropdown(label="On", choices=[], elem_id="lab-search-data", scale=3)
        upload = gr.UploadButton(
            "Upload", file_types=[".jsonl"], size="md", min_width=80, elem_id="lab-search-file"
        )
    return data, upload, metric


def bind(parts: Searching, read: Read, filled: Sequence[Any], merging: Sequence[Any]) -> list[Part]:
    """Bind the fold to the merge form.

    Args:
        parts: the fold.
        read: reads the merge form's values.
        filled: the merge form's components, in the order that `read` takes.
        merging: the page's components of the running merge: its job's id, and the line for problems.

    Returns:
        What the page draws again at every tick.
    """
    page, quiet = parts.page, {"show_progress": "hidden"}
    page.read, page.count = read, len(parts.inputs)
    job, seen, wrote = gr.State(""), gr.State(()), gr.State("")
    drawn = [parts.board, parts.panel, parts.chart, seen]
    when_page_opens(page.open, [parts.metric], [parts.data, job, *drawn], "search_open")
    parts.fold.expand(
        page.fill, [parts.lines, wrote, *filled], [parts.lines, wrote], api_name="search_fill", **quiet
    )
    parts.metric.input(page.offer, parts.metric, parts.data, api_name="search_metric", **quiet)
    parts.upload.upload(
        page.keep, [parts.upload, parts.metric], [parts.data, parts.problems], api_name="search_keep"
    )
    parts.start.click(
        page.start, [*parts.inputs, *filled], [parts.problems, *parts.settings.lines, job],
        api_name="search", **quiet,
    ).then(page.draw, [job, seen], drawn, api_name="search_started", **quiet)  # fmt: skip
    parts.board.click(
        page.press_button,
        [job, seen],
        [job, parts.problems, *merging, *drawn],
        api_name="search_press",
        **quiet,
    )
    return [Part(page.draw, [job, seen], drawn)]


class _Search(Running):
    """The handlers of the fold."""

    def __init__(self, services: Services) -> None:
        super().__init__(services, ("search",), "job_search", self._links)
        self.curves = Curves(services.desk)
        self.settings = form.Form(())
        self.read: Read
        self.count = 0

    def open(self, metric: str, request: gr.Request) -> tuple[Any, ...]:  # type: ignore[override]  # a search asks more
        """Offer the data, and find the search that the address names or that is under way."""
        return self.offer(metric, request), *super().open(request)

    def fill(self, lines: str, wrote: str, request: gr.Request, *filled: Any) -> tuple[Any, Any]:  # noqa: ARG002
        """Write what may move from the form, unless somebody has written there."""
        try:
            fresh = lines_for(self._recipe(filled))
        except (ValidationError, LabError):
            return gr.skip(), gr.skip()
        return (fresh, fresh) if (lines or "") in ("", wrote) else (gr.skip(), gr.skip())

    def offer(self, metric: str, request: gr.Request) -> Any:
        """Offer the data that a score reads; a set that Scores judges by comes last."""
        return self._offer(metric, self.services.who(request), None)

    def keep(self, path: str, metric: str, request: gr.Request) -> tuple[Any, str]:
        """Keep an uploaded file and choose it."""
        store, file, who = self.services.store, Path(path), self.services.who(request)
        name = free_name(modelview.name_of(file.stem), [row.name for row in store.datasets.list()])
        try:
            folder, keep = self.services.settings.datasets, self.services.catalog.keep_dataset
            row = keep_file(file, name, metrics[metric].reads, who.name, store, folder, keep)
        except LabError as error:
            return gr.skip(), widgets.problem_list(problems_of(error))
        return self._offer(metric, who, row.name), ""

    def start(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Submit the search."""
        lines, data, metric, merges, *settings = given[: self.count]
        who, quiet = self.services.who(request), ["" for _ in self.settings.lines]
        try:
            recipe = self._recipe(given[self.count :])
            fields = {"name": recipe.name} if merges else {}
            spec = SearchSpec.model_validate(
                {
                    "recipe": recipe,
                    "vary": read_lines(lines or lines_for(recipe)),
                    "data": data or "",
                    "metric": metric,
                    **fields,
                    **self.settings.values(settings),
                }
            )
            job = self.services.desk.submit(spec, who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            problems = problems_of(error)
            rest = widgets.problem_list(without_paths(self.settings.rest(problems)))
            return rest, *self.settings.problems(problems), gr.skip()
        return "", *quiet, job.id

    def draw(self, job_id: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:  # noqa: ARG002  a Part
        """Draw the card and every trial so far, and send what changed."""
        job = self.job(job_id)
        if job is None:
            return gr.skip(), gr.skip(), gr.skip(), seen
        card, shown, digests = only_changed(seen, self.html(job_id), figure := self._chart(job))
        panel = gr.Column(visible=True) if shown is figure and figure is not None else gr.skip()
        return card, panel, shown, digests

    def html(self, job_id: str) -> str:
        """Return the search's card and what it found."""
        job = self.job(job_id)
        return super().html(job_id) + (found_html(job) if job else "")

    def press_button(
        self, job_id: str, seen: Seen, event: gr.EventData, request: gr.Request
    ) -> tuple[Any, ...]:
        """Merge the best, or cancel, stop or repeat the search."""
        verb, about = widgets.pressed(event)
        if verb != "merge_best":
            job_id, problems, *drawn = self.press(job_id, seen, event, request)
            return job_id, problems, gr.skip(), gr.skip(), *drawn
        who = self.services.who(request)
        try:
            found = self.services.desk.own(about, who.name).result["recipe"]
            names = modelview.names(modelview.visible(self.services.store, who))
            recipe = MergeSpec.model_validate(found | {"name": free_name(found["name"], names)})
            merge = self.services.desk.submit(recipe, who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            told = widgets.problem_list(without_paths(problems_of(error)))
            return job_id, told, gr.skip(), gr.skip(), *self.draw(job_id, seen, request)
        return job_id, "", merge.id, "", *self.draw(job_id, seen, request)

    def _recipe(self, filled: Sequence[Any]) -> MergeSpec:
        spec = self.read(filled).spec()
        if not isinstance(spec, MergeSpec):
            raise BadInput(
                "The recipe makes a mixture of experts.",
                "A search moves the numbers of a merge.",
                "Choose models and a method in the form.",
            )
        return spec

    def _chart(self, job: JobRow) -> Any:
        lines = self.curves.of(job)
        if not lines:
            return None
        metric = metrics[job.spec["metric"]]
        return charts.search_chart(lines, metric.label, higher_is_better=metric.higher_is_better)

    def _offer(self, metric: str, who: Who, chosen: str | None) -> Any:
        reads = metrics[metric].reads
        shipped = {"choices": SHIPPED_CHOICES, "text": SHIPPED_TEXT}[reads]
        rows = [row for row in self.services.store.datasets.list() if row.facts.get("format") == reads]
        names = [row.name for row in rows if not who.is_visitor or row.owner == who.name]
        last = (f"{LABELS[shipped]} (Scores judges by them)", shipped)
        return gr.Dropdown(
            choices=[*((name, name) for name in names), last], value=chosen or next(iter(names[-1:]), None)
        )

    def _links(self, name: str) -> str:
        row = next((one for one in self.services.store.models.list() if one.name == name), None)
        return modelview.result_links(row) if row else ""
