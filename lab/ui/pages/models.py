"""The Models page: what the lab has, where each came from, and what can be done with it."""

import uuid
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.again import models_made
from lab.core.errors import LabError, Problem, problems_of
from lab.core.store.rows import ScoreRow
from lab.data.samples import sample_datasets
from lab.jobs import parse_spec
from lab.models.catalog import CatalogEntry
from lab.models.spec import ImportSpec, StarterSpec
from lab.ui import form, jobview, lineagechart, modelcards, widgets
from lab.ui.pages import outcome
from lab.ui.pages.household import Household
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services, Who
from lab.ui.waiting import waiting_words
from lab.ui.words import listed


def build(services: Services) -> None:
    """Lay out the page and bind it to the catalog and the desk."""
    page = _Models(services)
    widgets.picture(widgets.head("Models", "Every model of the lab, where it came from, and how it scores."))
    problems = widgets.picture(elem_id="lab-models-problems")
    with gr.Row(elem_classes=["lab-panel", "lab-split"], elem_id="lab-family", visible=False) as family:
        with gr.Column(scale=5, min_width=280):
            widgets.picture('<h2 class="lab-h2">Where it came from, and what came of it</h2>')
            lineage = gr.Plot(show_label=False, elem_id="lab-lineage", elem_classes="lab-chart")
        with gr.Column(scale=6, min_width=300):
            card = widgets.board(elem_id="lab-model")
    chosen, seen = gr.State(""), gr.State(())
    merge = outcome.build_panel(services, chosen, str, "lab-outcome")
    rows = widgets.board(elem_id="lab-models")
    drawn = [family, lineage, card, rows, seen]
    when_page_opens(page.open_linked, None, [chosen, *drawn], "models_open")
    every(gr.Timer(2), [Part(page.draw, [chosen, seen], drawn), merge], "models")
    for board, name in ((rows, "models_press"), (card, "model_press")):
        board.click(
            page.press,
            [chosen, seen],
            [chosen, problems, *drawn],
            api_name=name,
            show_progress="hidden",
        )
    if not services.is_demo:
        _add_folder(services)


def _add_folder(services: Services) -> None:
    """Lay out the form that brings a folder of this machine into the lab."""
    with gr.Accordion(
        "Add a model from a folder or a GGUF file", open=False, elem_classes=["lab-panel", "lab-adding"]
    ):
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
                f"{job.title}: it looks right and is being copied. It appears above when it is done."
            )
        except (ValidationError, LabError) as error:
            problems = problems_of(error)
        return (done + widgets.problem_list(self.shown.rest(problems)), *self.shown.problems(problems))


class _Models:
    """The page's handlers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.house = Household(services)

    def open_linked(self, request: gr.Request) -> tuple[Any, ...]:
        """Choose the model that the address names, or else the newest that was made from others."""
        who = self.services.who(request)
        chosen = request.query_params.get("model", "") or self._newest(self.house.seen_by(who))
        return chosen, *self.draw(chosen, (), request)

    def draw(self, chosen: str, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Draw the catalog as it is now: family and card of the chosen model, then the table."""
        who = self.services.who(request)
        entries = self.house.seen_by(who)
        shown = next((one for one in entries if one.row.name == chosen), None)
        if shown is None:
            shown = next((one for one in entries if one.row.name == self._newest(entries)), None)
        card = self.house.card(shown, entries, who) if shown else None
        scores = self.services.store.scores.of([one.row.name for one in entries])
        return only_changed(
            seen,
            gr.update(visible=card is not None),
            lineagechart.draw(self.house.family(shown.row.name, entries, scores)) if shown else None,
            modelcards.card(card) if card else "",
            f'<div class="lab-stack">{self._html(entries, scores, shown, who)}</div>',
        )

    def press(self, chosen: str, seen: Seen, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Choose a model, run its recipe again, delete it, fetch the starter model, or end a job."""
        verb, about = widgets.pressed(event)
        who = self.services.who(request)
        said = ""
        if verb == "open":
            chosen = about
        else:
            try:
                said = self._do(verb, about, who)
            except LabError as error:
                said = widgets.problem_list(problems_of(error))
        return chosen, said, *self.draw(chosen, seen, request)

    def _do(self, verb: str, about: str, who: Who) -> str:
        """Do what a button asks for; return what there is to say about it."""
        desk = self.services.desk
        verbs = {
            "delete": lambda: self._delete(about, who),
            "starter": lambda: desk.submit(StarterSpec(), who.name, uuid.uuid4().hex),
            "cancel": lambda: desk.cancel(about, who.name),
            "stop": lambda: desk.stop(about, who.name),
            "retry": lambda: desk.retry(about, who.name),
        }
        if verb == "again":
            made = listed(models_made(self.house.run_again(about, who).spec, parse_spec))
            return widgets.note(f"The stored recipe runs again, with the same seed, and makes {made}.")
        if verb in verbs:
            verbs[verb]()
        return ""

    def _delete(self, name: str, who: Who) -> None:
        entry = self.services.catalog.get(name)
        if not self.house.may_delete(entry, who):
            raise LabError(f"{name} is not yours to delete.")
        self.services.catalog.delete(name)

    def _html(
        self, entries: list[CatalogEntry], scores: list[ScoreRow], shown: CatalogEntry | None, who: Who
    ) -> str:
        jobs = self.house.making(who)
        waits = waiting_words(self.services, jobs)
        making = "".join(
            jobview.live_card(job, is_mine=job.owner == who.name, waits=waits.get(job.id, "")) for job in jobs
        )
        if not entries:
            return making + self._nothing_yet(is_coming=bool(making), who=who)
        now = self.services.store.database.time()
        table = modelcards.table(entries, scores, now, shown.row.name if shown else "")
        return making + table + (_first_steps() if len(entries) == 1 else "")

    @staticmethod
    def _newest(entries: list[CatalogEntry]) -> str:
        """Return the model to begin with: the newest that has parents; none in a lab that is new."""
        return next((one.row.name for one in entries if one.row.parents), "")

    def _nothing_yet(self, *, is_coming: bool, who: Who) -> str:
        if is_coming:
            words = "It is fetched once and takes about a minute. This page shows it when it is ready."
            return widgets.empty_state("The starter model is being prepared", words)
        failed = self.services.store.jobs.list(kinds=["starter"], states=["failed"], limit=1)
        why = "".join(widgets.failure(job) for job in failed)
        words = "The lab begins with SmolLM2-135M-Instruct (Apache-2.0): small enough for two CPU cores."
        fetch = widgets.button("Fetch the starter model", "starter", look="primary")
        return why + widgets.empty_state("There is no model yet", words, fetch if not who.is_visitor else "")


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
