"""The Models page: what the lab has, where each came from, and a way to add a folder or delete one."""

import uuid
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, Problem, problems_of
from lab.core.store.rows import LIVE, JobRow
from lab.data.samples import sample_datasets
from lab.models.catalog import CatalogEntry
from lab.models.spec import ImportSpec, StarterSpec
from lab.ui import form, jobview, modelcards, widgets
from lab.ui.modelview import HOUSE
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services, Who


def build(services: Services) -> None:
    """Lay out the page and bind it to the catalog and the desk."""
    page = _Models(services)
    widgets.picture(widgets.head("Models", "Every model of the lab, where it came from, and how it scores."))
    problems = widgets.picture(elem_id="lab-models-problems")
    rows = widgets.board(elem_id="lab-models")
    opened, seen = gr.State(""), gr.State(())
    when_page_opens(page.open_linked, None, [opened, rows, seen], "models_open")
    every(gr.Timer(2), [Part(page.draw, [opened, seen], [rows, seen])], "models")
    rows.click(
        page.press,
        [opened, seen],
        [opened, problems, rows, seen],
        api_name="models_press",
        show_progress="hidden",
    )
    if not services.is_demo:
        _add_folder(services)


def _add_folder(services: Services) -> None:
    """Lay out the form that brings a folder of this machine into the lab."""
    with gr.Accordion("Add a model from a folder", open=False, elem_classes=["lab-panel", "lab-adding"]):
        fields = {name: info for name, info in ImportSpec.model_fields.items() if name != "kind"}
        with gr.Row():
            shown = form.make_form(fields)
        rest = widgets.picture()
        add = gr.Button("Check and add", variant="primary", elem_id="lab-add-model")
    adder = _Adder(services, shown)
    add.click(adder.add, shown.inputs, [rest, *shown.lines], api_name="model_import", show_progress="minimal")


class _Adder:
    """The handler of the folder form."""

    def __init__(self, services: Services, shown: form.Form) -> None:
        self.services = services
        self.shown = shown

    def add(self, request: gr.Request, *given: Any) -> tuple[str, ...]:
        """Check the folder and queue its import; every problem goes to its field."""
        problems: list[Problem] = []
        done = ""
        try:
            spec = ImportSpec.model_validate(self.shown.values(given))
            job = self.services.desk.submit(spec, self.services.who(request).name, uuid.uuid4().hex)
            done = widgets.note(
                f"{job.title}: the folder looks right and is being copied. It appears above when it is done."
            )
        except (ValidationError, LabError) as error:
            problems = problems_of(error)
        return (done + widgets.problem_list(self.shown.rest(problems)), *self.shown.problems(problems))


class _Models:
    """The page's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def open_linked(self, request: gr.Request) -> tuple[Any, ...]:
        """Open the row that the address names."""
        opened = request.query_params.get("model", "")
        return opened, *self.draw(opened, (), request)

    def draw(self, opened: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Draw the catalog as it is now, with the jobs that are making models."""
        html = self._html(opened, self.services.who(request))
        return only_changed(seen, f'<div class="lab-stack">{html}</div>')

    def press(self, opened: str, seen: Seen, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Open or close a card, delete a model, fetch the starter model, or end a job."""
        verb, about = widgets.pressed(event)
        who = self.services.who(request)
        problems = ""
        if verb == "open":
            opened = "" if about == opened else about
        else:
            try:
                self._do(verb, about, who)
            except LabError as error:
                problems = widgets.problem_list(problems_of(error))
        return opened, problems, *self.draw(opened, seen, request)

    def _do(self, verb: str, about: str, who: Who) -> None:
        desk = self.services.desk
        verbs = {
            "delete": lambda: self._delete(about, who),
            "starter": lambda: desk.submit(StarterSpec(), who.name, uuid.uuid4().hex),
            "cancel": lambda: desk.cancel(about, who.name),
            "retry": lambda: desk.retry(about, who.name),
        }
        if verb in verbs:
            verbs[verb]()

    def _delete(self, name: str, who: Who) -> None:
        entry = self.services.catalog.get(name)
        if not self._may_delete(entry, who):
            raise LabError(f"{name} is not yours to delete.")
        self.services.catalog.delete(name)

    def _html(self, opened: str, who: Who) -> str:
        store = self.services.store
        jobs = store.jobs.list(states=LIVE, kinds=["starter", "import"])
        making = "".join(jobview.live_card(job) for job in jobs if job.owner in (who.name, HOUSE))
        entries = [
            one
            for one in self.services.catalog.list()
            if not who.is_visitor or one.row.owner in (who.name, HOUSE)
        ]
        if not entries:
            return making + self._nothing_yet(is_coming=bool(making), who=who)
        card = next((self._card(one, who) for one in entries if one.row.name == opened), "")
        scores = store.scores.of([one.row.name for one in entries])
        table = modelcards.table(entries, scores, store.database.time(), (opened if card else "", card))
        return making + table + (_first_steps() if len(entries) == 1 else "")

    def _nothing_yet(self, *, is_coming: bool, who: Who) -> str:
        if is_coming:
            words = "It is fetched once and takes about a minute. This page shows it when it is ready."
            return widgets.empty_state("The starter model is being prepared", words)
        failed = self.services.store.jobs.list(kinds=["starter"], states=["failed"], limit=1)
        why = "".join(widgets.failure(job) for job in failed)
        words = "The lab begins with SmolLM2-135M-Instruct (Apache-2.0): small enough for two CPU cores."
        fetch = widgets.button("Fetch the starter model", "starter", look="primary")
        return why + widgets.empty_state("There is no model yet", words, fetch if not who.is_visitor else "")

    def _card(self, entry: CatalogEntry, who: Who) -> str:
        made_by = self._job(entry.row.job_id)
        files = [
            (path.name, path.stat().st_size) for path in sorted(entry.folder.glob("*")) if path.is_file()
        ]
        return modelcards.card(entry, made_by, files, may_delete=self._may_delete(entry, who))

    def _job(self, job_id: str | None) -> JobRow | None:
        try:
            return self.services.store.jobs.get(job_id) if job_id else None
        except LabError:
            return None

    @staticmethod
    def _may_delete(entry: CatalogEntry, who: Who) -> bool:
        return who.is_local or entry.row.owner == who.name


def _first_steps() -> str:
    """Return what a lab with nothing but its starter model offers."""
    sample = sample_datasets()[0]
    rows = sum(1 for line in sample.path.read_text(encoding="utf-8").splitlines() if line.strip())
    tune = (
        f'<a class="lab-button lab-primary" href="?view=finetune&amp;sample={widgets.esc(sample.name)}">'
        f"Fine-tune it on {rows} {widgets.esc(sample.name)} examples</a>"
    )
    ask = '<a class="lab-button" href="?view=compare" data-view="compare">Ask it something</a>'
    words = "Teach the starter model a manner or a skill, then merge what you made and compare the results."
    return widgets.empty_state("Make your first model", words, tune + ask)
