"""The small form that carries a fine-tune over to another base: three models in words, a plan, a button.

A part of the Merge page; the job it starts is shown where the page's merges are.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.spec import free_name
from lab.merge.patching import patch_of
from lab.ui import form, mergeform, modelview, widgets
from lab.ui.redraw import when_page_opens
from lab.ui.services import Services

_WORDS = (
    "Adds what a fine-tune learned to another base of the same shape, without training: "
    "new base + (fine-tune - its old base)."
)


class CarryForm:
    """The form's components and handlers.

    Args:
        services: the store and the desk.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        with gr.Accordion(
            "Carry a fine-tune over to another base",
            open=False,
            elem_classes="lab-accordion",
            elem_id="lab-carry",
        ) as self._fold:
            widgets.picture(f'<p class="lab-muted lab-small" style="margin:0">{widgets.esc(_WORDS)}</p>')
            self._tuned = gr.Dropdown(label="Fine-tune", choices=[], elem_id="lab-carry-tuned")
            self._old = gr.Dropdown(
                label="Its old base", choices=[], elem_id="lab-carry-old", info="What it was tuned from"
            )
            self._new = gr.Dropdown(
                label="New base", choices=[], elem_id="lab-carry-new", info="What it is carried over to"
            )
            self._scale = gr.Slider(
                label="Strength", minimum=0, maximum=2, value=1.0, step=0.05, buttons=[],
                info="1 adds all that was learned",
            )  # fmt: skip
            self._name = gr.Textbox(label="Name of the carried model", max_lines=1, elem_id="lab-carry-name")
            self._told = widgets.picture(elem_id="lab-carry-plan")
            self._start = gr.Button("Carry over", interactive=False, elem_id="lab-carry-start")

    def bind(self, job: Any, draw: Callable[..., Any], running: Sequence[Any]) -> None:
        """Bind the form; a started job goes to `job`, and `draw` shows it in `running`.

        Args:
            job: the page's state with the id of the job that it shows.
            draw: draws that job.
            running: the board that it is drawn on, and the digests of what was drawn.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        inputs = [self._tuned, self._old, self._new, self._scale, self._name]
        told = [self._told, self._start]
        choices = [self._tuned, self._old, self._new, self._name]
        when_page_opens(self.open, None, choices, "carry_open")
        self._fold.expand(self.open, None, choices, api_name="carry_choices", **quiet)
        chosen = self._tuned.input(
            self.choose, [self._tuned, self._new], [self._old, self._new], api_name="carry_tuned", **quiet
        )
        chosen.then(self.check, inputs, told, api_name="carry_check_tuned", **quiet)
        edited = [form.edited(component) for component in inputs[1:]]
        gr.on(edited, self.check, inputs, told, api_name="carry_check", **quiet)
        started = self._start.click(
            self.start, inputs, [self._told, job, self._name], api_name="carry", show_progress="minimal"
        )
        started.then(draw, [job, running[1]], list(running), api_name="carry_started", show_progress="hidden")

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models; a fine-tune is anything that has a parent."""
        rows = modelview.visible(self._services.store, self._services.who(request))
        names = modelview.names(rows)
        tuned = [row.name for row in rows if row.parents]
        return (
            gr.Dropdown(choices=tuned),
            gr.Dropdown(choices=modelview.bases(rows)),
            gr.Dropdown(choices=modelview.bases(rows)),
            free_name("carried", names),
        )

    def choose(self, tuned: str | None, new: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Fill in what the fine-tune was made from, and a new base where there is only one other."""
        rows = modelview.visible(self._services.store, self._services.who(request))
        row = next((one for one in rows if one.name == tuned), None)
        if row is None or not row.parents:
            return gr.skip(), gr.skip()
        others = [name for name in modelview.bases(rows) if name not in (tuned, row.parents[0])]
        only = others[0] if len(others) == 1 and not new else new
        return gr.Dropdown(value=row.parents[0]), gr.Dropdown(value=only)

    def check(self, request: gr.Request, *given: Any) -> tuple[Any, Any]:
        """Say what will come out and how far the bases are apart, or what stands in the way."""
        try:
            plan: Any = self._services.desk.check(_spec_of(*given), self._services.who(request).name)
        except (ValidationError, LabError) as error:
            return mergeform.problems_html(problems_of(error)), gr.Button(interactive=False)
        return mergeform.plan_html(plan), gr.Button(interactive=True)

    def start(self, request: gr.Request, *given: Any) -> tuple[Any, ...]:
        """Queue the patch."""
        who = self._services.who(request)
        try:
            job = self._services.desk.submit(_spec_of(*given), who.name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error)), gr.skip(), gr.skip()
        names = modelview.names(modelview.visible(self._services.store, who))
        return gr.skip(), job.id, free_name("carried", [*names, *job.spec.get("name", "").split()])


def _spec_of(
    tuned: str | None, old: str | None, new: str | None, scale: float | None, name: str | None
) -> Any:
    """Return the merge that the form describes.

    Raises:
        BadInput: a role is empty, or two are the same model.
        ValidationError: something else doesn't fit.
    """
    roles = {"fine-tune": tuned, "old base": old, "new base": new}
    for role, model in roles.items():
        if not model:
            raise BadInput(f"The {role} is missing.", "", "Choose a model.", field="models")
    if len(set(roles.values())) < len(roles):
        raise BadInput(
            "Two of the three are the same model.",
            "What was learned is the difference of the fine-tune and its old base, added to a third.",
            "Choose three models.",
            field="models",
        )
    return patch_of(str(new), str(tuned), str(old), name=(name or "").strip(), scale=scale or 0.0)
