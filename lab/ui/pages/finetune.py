"""The Fine-tune page: data, method, estimate, start; then the curve while it learns, and the result."""

import uuid
from collections.abc import Sequence
from typing import Any

import gradio as gr
from pydantic import ValidationError

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.spec import free_name
from lab.tune.recipe import read_recipe, write_recipe
from lab.tune.registry import tune_methods
from lab.tune.spec import TuneSpec
from lab.ui import form, modelview, widgets
from lab.ui.offers import Offer, offered
from lab.ui.pages.learning import Learning
from lab.ui.pages.rows import datasets, lay_out_data
from lab.ui.redraw import Part, every, only_changed, when_page_opens
from lab.ui.services import Services
from lab.ui.words import listed

_KNOBS = ("rank", "learning_rate", "epochs", "max_steps", "full_model")
_A_ROW = 5
_SEVERAL = "devices"
_OWN = ("kind", "model", "dataset", "name", "method", _SEVERAL)


def build(services: Services) -> None:
    """Lay out the page and bind it to the tune room's spec and check."""
    page = _Finetune(services)
    widgets.picture(widgets.head("Fine-tune", "Teach a model a manner or a skill from your examples."))
    dataset, data_step, bind_preview = lay_out_data(services)
    with gr.Accordion("2 · Method", open=True, elem_classes=["lab-panel", "lab-adding"]) as method_step:
        with gr.Row():
            model = gr.Dropdown(label="Model", info="The full model to start from", elem_id="lab-tune-model")
            method = gr.Dropdown(
                label="Method", choices=list(tune_methods), value=next(iter(tune_methods)),
                info=_method_words(),
                elem_id="lab-tune-method",
            )  # fmt: skip
            name = gr.Textbox(
                label="Name of the adapter", info="What comes out", max_lines=1, elem_id="lab-tune-name"
            )
        with gr.Row():
            knobs = form.make_form({one: services.fields(TuneSpec)[one] for one in _KNOBS})
        with gr.Row(visible=False) as several_row:
            several = form.make_form({_SEVERAL: services.fields(TuneSpec)[_SEVERAL]})
        with gr.Accordion("More settings", open=False, elem_classes="lab-accordion"):
            rest = _lay_out_rest(services)
        recipe, use_recipe, recipe_line = _lay_out_recipe()
    page.form = form.Form((*knobs.controls, *several.controls, *rest))
    with gr.Column(elem_classes="lab-panel"):
        estimate = widgets.picture(elem_id="lab-tune-estimate")
        start = gr.Button("Start fine-tuning", variant="primary", elem_id="lab-tune-start", interactive=False)
    inputs = [dataset, model, method, name, *page.form.inputs]
    page.recipe = Offer(recipe)
    told = [estimate, start, page.recipe.component, *page.form.lines]
    choices = gr.State(())
    timer = gr.Timer(1)
    job, learning = _lay_out_learning(services)
    suggested, offer = gr.State(""), Offer(name)
    page.bind_checks(inputs, told, suggested, offer)
    filled = use_recipe.click(
        page.use_recipe,
        [recipe],
        [recipe_line, suggested, *inputs, *told],
        api_name="tune_recipe",
        show_progress="hidden",
    )
    page.recipe.after(filled)
    when_page_opens(page.open, None, [model, choices], "tune_open")
    when_page_opens(page.offer_devices, None, [several_row], "tune_devices")
    models = Part(page.choices, [choices], [model, choices])
    every(timer, [models, bind_preview(model), Part(learning.draw, *learning.wires)], "tune_tick")
    started = start.click(
        page.start,
        inputs,
        [estimate, job, offer.component, suggested, data_step, method_step],
        api_name="tune",
        show_progress="minimal",
    )
    offer.after(started).then(learning.draw, *learning.wires, api_name="tune_started", show_progress="hidden")


def _lay_out_rest(services: Services) -> list[form.Control]:
    """Make the controls of the settings that are seldom touched, in rows of equal length."""
    fields = services.fields(TuneSpec)
    names = [name for name in fields if name not in (*_KNOBS, *_OWN)]
    controls: list[form.Control] = []
    for start in range(0, len(names), _A_ROW):
        with gr.Row():
            controls += form.make_form(
                {name: fields[name] for name in names[start : start + _A_ROW]}
            ).controls
    return controls


def _lay_out_recipe() -> tuple[Any, Any, Any]:
    """Make the folded part with the recipe as YAML: the text, the button, the line for its problems."""
    with gr.Accordion("Recipe (YAML)", open=False, elem_classes="lab-accordion"):
        recipe = gr.Textbox(
            label="Recipe", lines=8, max_lines=32, elem_classes="lab-code", elem_id="lab-tune-yaml",
            buttons=["copy"], placeholder="It appears here when the form is complete. Or paste one.",
            info="The form writes it; `python -m lab tune` runs it. Null is left to the worker.",
        )  # fmt: skip
        line = widgets.picture(elem_classes="lab-field-problem")
        with gr.Row():
            use = gr.Button(
                "Fill the form from this recipe", size="sm", scale=0, min_width=240,
                elem_id="lab-tune-use-yaml",
            )  # fmt: skip
    return recipe, use, line


def _lay_out_learning(services: Services) -> tuple[Any, Learning]:
    """Lay out the part that shows the running fine-tune; return the job's id and the handlers."""
    job, seen = gr.State(""), gr.State(())
    card = widgets.board(elem_id="lab-tune-running")
    problems = widgets.picture()
    with gr.Column(elem_classes="lab-panel lab-chart", visible=False) as panel:
        chips = widgets.picture(elem_id="lab-tune-chips")
        chart = gr.Plot(show_label=False, container=False, elem_id="lab-tune-chart")
        log = widgets.picture()
    learning = Learning(services, [job, seen], [card, panel, chips, chart, log, seen])
    when_page_opens(learning.open, None, [job, *learning.outputs], "tune_running_open")
    card.click(
        learning.press, [job, seen], [job, problems, *learning.outputs], api_name="tune_press",
        show_progress="hidden",
    )  # fmt: skip
    return job, learning


class _Finetune:
    """The handlers of the form."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.form = form.Form(())
        self.recipe: Any = None  # the offer of the recipe's box, once it is laid out

    def bind_checks(self, inputs: list[Any], told: list[Any], suggested: Any, offer: Offer) -> None:
        """Check the form when somebody changes it, and when a dataset was chosen for them."""
        dataset, model, _, name = inputs[:4]
        typed = [form.edited(one) for one in inputs if one not in (dataset, model)]
        typed.append(model.change)  # the page chooses it when the first model comes
        changed = gr.on(
            typed,
            self.check,
            inputs,
            told,
            api_name="tune_check",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.recipe.after(changed)
        named = dataset.change(
            self.suggest,
            [dataset, name, suggested],
            [offer.component, suggested],
            api_name="tune_name",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        after = offer.after(named).then(
            self.check, inputs, told, api_name="tune_check_data", show_progress="hidden"
        )
        self.recipe.after(after)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Offer the models that can be tuned."""
        names = self._bases(request)
        wanted = request.query_params.get("base", "")
        value = wanted if wanted in names else (names[0] if names else None)
        return gr.Dropdown(choices=names, value=value), only_changed((), names)[-1]

    def offer_devices(self, request: gr.Request) -> tuple[Any, ...]:  # noqa: ARG002  the same for everybody
        """Ask how many devices are to train together only where a job can have more than one."""
        return (gr.Row(visible=self.services.store.devices.together() > 1),)

    def choices(self, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Offer models that came or went; what is chosen stays, and the first one is chosen when it comes."""
        names = self._bases(request)
        changed, digests = only_changed(seen, names)
        if changed is not names:
            return gr.skip(), digests
        is_first = seen == only_changed((), [])[-1] and names
        return gr.Dropdown(choices=names, value=names[0]) if is_first else gr.Dropdown(choices=names), digests

    def check(
        self, request: gr.Request, dataset: str, model: str, method: str, name: str, *given: Any
    ) -> tuple[Any, ...]:
        """Say what the fine-tune will take, or what stands in the way beside its field."""
        missing = [words for value, words in ((dataset, "examples"), (model, "a model")) if not value]
        if missing:
            words = widgets.note(f"Choose {listed(missing)} first.")
            return words, gr.Button(interactive=False), None, *self.form.problems([])
        try:
            spec = self._spec(dataset, model, method, name, given)
        except ValidationError as error:
            return self._refused(error, "")
        return self._checked(spec, request)

    def use_recipe(self, text: str, request: gr.Request) -> tuple[Any, ...]:
        """Fill the form from a recipe and check it; or say below it why that can't be, and change nothing."""
        try:
            spec = read_recipe(text or "")
            self._must_be_offered(spec, request)
        except (ValidationError, LabError) as error:
            knobs = len(self.form.inputs)
            before, after = ((gr.skip() for _ in range(count)) for count in (7 + knobs, knobs))
            return widgets.problem_list(problems_of(error)), *before, None, *after
        filled = (spec.dataset, spec.model, spec.method, spec.name, *self.form.filled(spec.model_dump()))
        return "", "", *filled, *self._checked(spec, request, text)

    def start(
        self, request: gr.Request, dataset: str, model: str, method: str, name: str, *given: Any
    ) -> tuple[Any, ...]:
        """Queue the fine-tune and fold the form."""
        try:
            spec = self._spec(dataset, model, method, name, given)
            job = self.services.desk.submit(spec, self.services.who(request).name, uuid.uuid4().hex)
        except (ValidationError, LabError) as error:
            return widgets.problem_list(problems_of(error)), gr.skip(), None, *(gr.skip() for _ in range(3))
        taken = modelview.names(self.services.store.models.list())
        next_name = free_name(name, [*taken, *spec.models_made()])
        return (
            widgets.note("Started. It goes on when you leave this page."), job.id,
            offered(next_name, name), next_name,
            gr.Accordion(label=f"1 · Data: {dataset}", open=False),
            gr.Accordion(label=f"2 · Method: {job.title}", open=False),
        )  # fmt: skip

    def _must_be_offered(self, spec: TuneSpec, request: gr.Request) -> None:
        """Refuse a model or examples that the form does not offer, for it can't show them."""
        visible = datasets(self.services, self.services.who(request))
        offers = (
            ("model", spec.model, self._bases(request)),
            ("dataset", spec.dataset, [row.name for row in visible]),
        )
        for field, name, names in offers:
            if name not in names:
                raise BadInput(
                    f"The recipe's {field} is {name!r}, which is not here.",
                    f"There is {listed(names)}." if names else f"There is no {field} yet.",
                    "Add it first, or change that line.",
                    field=field,
                )

    def suggest(self, dataset: str, name: str, suggested: str) -> tuple[Any, ...]:
        """Suggest a free name for the adapter, after the dataset; one that somebody chose stays."""
        if name and name != suggested:
            return None, suggested
        taken = modelview.names(self.services.store.models.list())
        free = free_name(f"{(dataset or 'my')[:50]}-lora", taken)
        return offered(free, suggested), free

    def _checked(self, spec: TuneSpec, request: gr.Request, *over: str) -> tuple[Any, ...]:
        """Return what the form is told about a spec: estimate, button, recipe and the fields' problems."""
        try:
            estimate: Any = self.services.desk.check(spec, self.services.who(request).name)
        except (ValidationError, LabError) as error:
            return self._refused(error, write_recipe(spec), *over)
        recipe = offered(write_recipe(spec), *over)
        return widgets.note(estimate.words), gr.Button(interactive=True), recipe, *self.form.problems([])

    def _refused(self, error: ValidationError | LabError, recipe: str, *over: str) -> tuple[Any, ...]:
        """Return what the form is told when it can't be: each problem is shown beside its field."""
        problems = problems_of(error)
        rest = widgets.problem_list(self.form.rest(problems))
        return rest, gr.Button(interactive=False), offered(recipe, *over), *self.form.problems(problems)

    def _spec(self, dataset: str, model: str, method: str, name: str, given: Sequence[Any]) -> TuneSpec:
        return TuneSpec.model_validate(
            {
                "dataset": dataset,
                "model": model or "",
                "method": method,
                "name": (name or "").strip(),
                **self.form.values(given),
            }
        )

    def _bases(self, request: gr.Request) -> list[str]:
        return modelview.bases(modelview.visible(self.services.store, self.services.who(request)))


def _method_words() -> str:
    return " ".join(f"{one.name}: {one.words}" for one in tune_methods.values())
