"""The live merge on the Compare page: sliders for a recipe, a column that answers from it, and its keeping.

Binds what `livefields` lays out. The column itself is the Compare page's, which asks here for the recipe.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import LabError, problems_of
from lab.core.spec import free_name
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec
from lab.ui import modelview, widgets
from lab.ui.livefields import NO_BASE, LiveFields, lay_out_fields
from lab.ui.liverecipes import status_html, without_paths
from lab.ui.pages.running import Running
from lab.ui.redraw import Part, Seen, only_changed, when_page_opens
from lab.ui.services import Services, Who

COLUMN = "live"
"""The name of the column, unless a model has it."""

_OFF = widgets.note("Merge siblings in memory: move a slider, ask again, and the column answers anew.")


class LiveMerge:
    """The panel: its components and their handlers.

    Attributes:
        fields: the controls of the recipe.
        running: the job that keeps a recipe.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._lay_out()
        self.running = Running(services, ("merge",), "job_live", self._links)

    @property
    def inputs(self) -> list[Any]:
        """What `recipe` reads."""
        return self.fields.inputs

    @property
    def parts(self) -> list[Part]:
        """What the page draws again at every tick."""
        models = [self.fields.models, self.fields.base, self._choices]
        job = Part(self.running.draw, [self._job, self._seen], [self._board, self._seen])
        return [Part(self.choices, [self._choices], models), job]

    def recipe(self, given: Sequence[Any], who: Who) -> MergeSpec | None:
        """Return the recipe as the controls have it now; nothing while the live merge is off.

        Raises:
            ValidationError, BadInput: something doesn't fit.
        """
        return self.fields.recipe(given, free_name(COLUMN, self._names(who)))

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models, the newest fine-tunes chosen; show the recipe of a run that the address names."""
        who = self.services.who(request)
        rows = modelview.visible(self.services.store, who)
        names = modelview.names(rows)
        made = [row.name for row in rows if row.kind in ("adapter", "tuned")]
        tuned = (made if len(made) > 1 else names[1:] or names)[-2:]
        base = next((row.name for row in rows if not row.parents), NO_BASE)
        first = [gr.skip(), gr.update(value=tuned), gr.update(value=base)]
        updates = [*first, *(gr.skip() for _ in self.inputs[3:])]
        if recipe := self._linked(request):
            updates = self.fields.filled(recipe)
        for place, choices in ((1, names), (2, [NO_BASE, *names])):
            updates[place] |= {"choices": choices}
        return *updates, free_name("merged", names), only_changed((), names)[-1]

    def choices(self, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Offer models that came or went; what is chosen stays."""
        names = self._names(self.services.who(request))
        changed, digests = only_changed(seen, names)
        if changed is not names:
            return gr.skip(), gr.skip(), digests
        return gr.update(choices=names), gr.update(choices=[NO_BASE, *names]), digests

    def show(self, models: list[str], method: str) -> list[Any]:
        """Show the sliders and knobs that these models and this method have."""
        return self.fields.shown(models or (), method)

    def describe(self, request: gr.Request, *given: Any) -> str:
        """Say what the sliders say now and what it takes, or why these models can't be merged."""
        try:
            recipe = self.recipe(given, self.services.who(request))
            if recipe is None:
                return _OFF
            return status_html(LiveRecipe.find(recipe, self.services.catalog), recipe)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(without_paths(problems_of(error)))

    def keep(self, name: str, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Submit the merge that writes exactly this recipe to a model."""
        who = self.services.who(request)
        try:
            recipe = self.fields.recipe(given, (name or "").strip())
            if recipe is None:
                return widgets.note("Switch the live merge on first."), gr.skip(), gr.skip()
            job = self.services.desk.submit(recipe, who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(without_paths(problems_of(error))), gr.skip(), gr.skip()
        return "", job.id, free_name("merged", [*self._names(who), recipe.name])

    def _lay_out(self) -> None:
        with gr.Accordion("Live merge", open=False, elem_classes="lab-accordion", elem_id="lab-live"):
            self.fields: LiveFields = lay_out_fields()
            self._status = widgets.picture(_OFF, elem_id="lab-live-status")
            with gr.Row(equal_height=True, elem_classes="lab-bottom"):
                self._again = gr.Button("Ask again", elem_id="lab-live-again", min_width=120)
                self._is_eager = gr.Checkbox(
                    label="Ask again when a slider is let go", value=False, elem_id="lab-live-eager"
                )
                self._name = gr.Textbox(label="Name", max_lines=1, elem_id="lab-live-name", min_width=160)
                self._keep = gr.Button("Keep this one", elem_id="lab-live-keep", min_width=140)
            self._problems = widgets.picture(elem_id="lab-live-problems")
            self._board = widgets.board(elem_id="lab-live-running")
        self._wish, self._choices = gr.State(False), gr.State(())
        self._job, self._seen = gr.State(""), gr.State(())

    def bind(self) -> None:
        """Bind the panel's own handlers; what the page binds before opens before."""
        fields, quiet = self.fields, {"show_progress": "hidden"}
        drawn = [self._board, self._seen]
        shown = [fields.base, *fields.weights, *(knob.control.component for knob in fields.knobs)]
        opened = when_page_opens(
            self.open, None, [*self.inputs, self._name, self._choices], "live_open"
        ).then(self.show, [fields.models, fields.method], shown, api_name="live_show_first", **quiet)
        opened.then(self.describe, self.inputs, self._status, api_name="live_describe_first", **quiet)
        when_page_opens(self.running.open, None, [self._job, *drawn], "live_running_open")
        gr.on([fields.models.input, fields.method.input], self.show, [fields.models, fields.method], shown,
              api_name="live_show", **quiet).then(
            self.describe, self.inputs, self._status, api_name="live_describe_shown", **quiet
        )  # fmt: skip
        gr.on([fields.is_on.input, fields.base.input], self.describe, self.inputs, self._status,
              api_name="live_describe", **quiet)  # fmt: skip
        self._keep.click(
            self.keep, [self._name, *self.inputs], [self._problems, self._job, self._name],
            api_name="live_keep", **quiet,
        ).then(self.running.draw, [self._job, self._seen], drawn, api_name="live_kept", **quiet)  # fmt: skip
        self._board.click(
            self.running.press, [self._job, self._seen], [self._job, self._problems, *drawn],
            api_name="live_press", **quiet,
        )  # fmt: skip

    def bind_asking(
        self, handler: Any, run: Any, inputs: Sequence[Any], outputs: Sequence[Any], follows: Sequence[Any]
    ) -> None:
        """Ask again when the button is pressed, or a slider is let go and the reader wants that.

        Args:
            handler: asks and follows the answers; given `wish` first, it does nothing where that is False.
            run: the state with the id of the job that answers now.
            inputs: what the handler is given after `wish`.
            outputs: what it tells.
            follows: the events that follow answers now; they let go when another question is asked.
        """
        told, given = [self._status, self._wish], [run, self._is_eager, *self.inputs]
        fields, quiet = self.fields, {"show_progress": "hidden"}
        knobs = [knob.control.component for knob in fields.knobs]
        moved = [one.release for one in (*fields.weights, *knobs) if isinstance(one, gr.Slider)]
        moved += [one.input for one in knobs if not isinstance(one, gr.Slider)]
        letting_go: list[Any] = list(follows)
        for events, move, name in ((moved, self.move, "move"), ([self._again.click], self.press, "again")):
            first = gr.on(
                events, move, given, told, api_name=f"live_{name}", trigger_mode="multiple", **quiet
            )
            letting_go.append(
                first.then(
                    handler, [self._wish, *inputs], list(outputs), api_name=f"live_{name}_ask",
                    concurrency_limit=None, concurrency_id="tail", trigger_mode="multiple", **quiet,
                )
            )  # fmt: skip
        ending = [*([one.release for one in fields.weights]), self._again.click]
        gr.on(ending, None, cancels=letting_go, queue=False, api_name=False)

    def move(self, run: str, is_eager: bool, request: gr.Request, *given: Any) -> tuple[str, bool]:
        """Say what the sliders say now, and whether to ask again."""
        status = self.describe(request, *given)
        return status, is_eager and self._end(run, request, given)

    def press(self, run: str, is_eager: bool, request: gr.Request, *given: Any) -> tuple[str, bool]:  # noqa: ARG002
        """Ask again, whatever the switch says."""
        return self.describe(request, *given), self._end(run, request, given)

    def _end(self, run: str, request: gr.Request, given: Sequence[Any]) -> bool:
        """End the answers of the recipe as it was; return whether there is one to ask."""
        if not given[0]:
            return False
        if run:
            with suppress(LabError):
                self.services.desk.cancel(run, self.services.who(request).name)
        return True

    def _linked(self, request: gr.Request) -> MergeSpec | None:
        """Return the recipe of the comparison that the address names."""
        try:
            run = request.query_params.get("run", "")
            job = self.services.desk.own(run, self.services.who(request).name) if run else None
        except LabError:
            return None
        recipes = job.spec.get("recipes", ()) if job is not None and job.kind == "compare" else ()
        return MergeSpec.model_validate(recipes[0]) if recipes else None

    def _links(self, name: str) -> str:
        row = next((one for one in self.services.store.models.list() if one.name == name), None)
        return modelview.result_links(row) if row else ""

    def _names(self, who: Who) -> list[str]:
        return modelview.names(modelview.visible(self.services.store, who))
