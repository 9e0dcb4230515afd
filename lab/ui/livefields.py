"""The controls of a live merge: siblings, a slider for each weight, and the knobs of every fast method once.

Makes components and reads them; knows no handler. A knob that several methods share is one control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic.fields import FieldInfo

from lab.core.errors import BadInput
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.spec import MergeSpec, merge_of
from lab.ui import form

MOST_SIBLINGS = 4
FAST_NANOSECONDS = 60.0
"""A method that takes longer for an element of one model is not offered: it would not feel live."""

FIRST = "linear"
SLIDER_STEP = 0.01
NO_BASE = "(none)"


@dataclass(frozen=True)
class Knob:
    """One control, for all methods whose knob of this name means the same.

    Attributes:
        name: the knob's name in recipes.
        methods: the methods that have it.
        control: what is filled in, made from the first method's field.
    """

    name: str
    methods: Mapping[str, FieldInfo]
    control: form.Control


@dataclass(frozen=True)
class LiveFields:
    """The components, in the order of `inputs`."""

    is_on: Any
    models: Any
    base: Any
    method: Any
    weights: Sequence[Any]
    knobs: Sequence[Knob]

    @property
    def inputs(self) -> list[Any]:
        """What `recipe` reads."""
        knobs = [knob.control.component for knob in self.knobs]
        return [self.is_on, self.models, self.base, self.method, *self.weights, *knobs]

    def recipe(self, given: Sequence[Any], name: str) -> MergeSpec | None:
        """Return the recipe that the controls describe; nothing while the live merge is off.

        Raises:
            ValidationError, BadInput: something doesn't fit.
        """
        is_on, models, base, method, *rest = given
        if not is_on:
            return None
        if not models:
            raise BadInput("The live merge has no models.", "It takes two to four siblings.", "Choose them.")
        weights, values = rest[:MOST_SIBLINGS], rest[MOST_SIBLINGS:]
        knobs = {
            knob.name: form.read_value(knob.methods[method], value)
            for knob, value in zip(self.knobs, values, strict=True)
            if method in knob.methods
        }
        return merge_of(
            method,
            list(zip(models, weights, strict=False)),
            name=name,
            base=base if merge_methods[method].base == "delta" and base != NO_BASE else None,
            knobs={key: value for key, value in knobs.items() if value is not None},
        )

    def shown(self, models: Sequence[str], method: str) -> list[Any]:
        """Return updates that show what this method and these models have use for, from `base` on."""
        chosen = merge_methods[method]
        sliders = [
            gr.update(visible=chosen.weighted, label=f"Weight of {models[place]}")
            if place < len(models)
            else gr.update(visible=False)
            for place in range(MOST_SIBLINGS)
        ]
        return [gr.update(visible=chosen.base == "delta"), *sliders, *self._groups(method)]

    def filled(self, recipe: MergeSpec) -> list[Any]:
        """Return updates that show a recipe, in the order of `inputs`."""
        weights = [source.parameters.get("weight", 0.5) for source in recipe.models]
        weights += [0.5] * (MOST_SIBLINGS - len(weights))
        names = [source.model for source in recipe.models]
        return [
            True,
            gr.update(value=names),
            gr.update(value=recipe.base_model or NO_BASE),
            recipe.method,
            *(gr.update(value=weight) for weight in weights[:MOST_SIBLINGS]),
            *(
                gr.update(value=recipe.parameters[knob.name])
                if knob.name in recipe.parameters and recipe.method in knob.methods
                else gr.skip()
                for knob in self.knobs
            ),
        ]

    def _groups(self, method: str) -> list[Any]:
        """Show each knob that the method has, with the method's own default."""
        return [
            gr.update(visible=True, value=form.default_of(knob.methods[method]))
            if method in knob.methods
            else gr.update(visible=False)
            for knob in self.knobs
        ]


def offered() -> dict[str, MergeMethod]:
    """Return the methods that merge two siblings or more, tensor by tensor, and fast enough for a slider."""
    return {method.name: method for method in merge_methods.values() if _follows(method)}


def _follows(method: MergeMethod) -> bool:
    least, most = method.models
    return (
        least <= 2 <= most
        and method.calibration is None
        and method.statistics is None
        and method.nanoseconds <= FAST_NANOSECONDS
    )


def lay_out_fields() -> LiveFields:
    """Make the controls where the caller's layout stands."""
    is_on = gr.Checkbox(label="Add a column that is merged when you ask", value=False, elem_id="lab-live-on")
    with gr.Row():
        models = gr.Dropdown(
            label="Siblings (2 to 4)", multiselect=True, max_choices=MOST_SIBLINGS,
            elem_id="lab-live-models", info="Fine-tunes or adapters of one base",
        )  # fmt: skip
        method = gr.Dropdown(
            label="Method", choices=list(offered()), value=FIRST, elem_id="lab-live-method",
            info="Those that are fast enough to follow a slider",
        )  # fmt: skip
        base = gr.Dropdown(
            label="Base", choices=[NO_BASE], value=NO_BASE, visible=False, elem_id="lab-live-base",
            info="What the siblings were tuned from",
        )  # fmt: skip
    with gr.Row():
        weights = [
            gr.Slider(
                -1.0, 2.0, value=0.5, step=0.05, label="Weight", visible=False, buttons=[], min_width=200,
                elem_classes="lab-live-weight",
            )
            for _ in range(MOST_SIBLINGS)
        ]  # fmt: skip
    with gr.Row():
        knobs = _knobs()
    return LiveFields(is_on, models, base, method, weights, knobs)


def _knobs() -> list[Knob]:
    kinds: dict[tuple[str, str], dict[str, FieldInfo]] = {}
    for method in offered().values():
        for name, info in method.parameters.items():
            if name != "weight":
                kinds.setdefault((name, _meaning(info)), {})[method.name] = info
    made = []
    for (name, _), methods in kinds.items():
        info = next(iter(methods.values()))
        component = form.control_for(name, info, visible=FIRST in methods, min_width=200)
        made.append(Knob(name, methods, form.Control(name, info, component, None)))
    return made


def _meaning(info: FieldInfo) -> str:
    """Tell knobs of one name apart: by type, by bounds, and whether a slider in hundredths can show them."""
    start = form.default_of(info)
    is_tiny = isinstance(start, float) and 0 < abs(start) < SLIDER_STEP
    return f"{info.annotation} {form.bounds(info)} {is_tiny}"
