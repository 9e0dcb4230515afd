"""A pydantic model's fields as controls: label, help, bounds and default come from the field itself.

Values come back as a dict for the model to validate, and its problems go to the line below the field
they concern. Knows nothing of what a field means.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import gradio as gr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lab.core.errors import Problem
from lab.ui import widgets

_LABELS = {"neftune_alpha": "NEFTune noise", "max_new_tokens": "Longest answer", "lambda": "Lambda"}


@dataclass(frozen=True)
class Control:
    """One field as it stands on a page.

    Attributes:
        name: the field's name in the model.
        info: the field.
        component: what is filled in.
        line: where the field's problems are shown.
    """

    name: str
    info: FieldInfo
    component: Any
    line: Any


@dataclass(frozen=True)
class Form:
    """Some fields of one model, laid out."""

    controls: tuple[Control, ...]

    @property
    def inputs(self) -> list[Any]:
        """The components to read, in the order of the fields."""
        return [control.component for control in self.controls]

    @property
    def lines(self) -> list[Any]:
        """The components for the problems, in the same order."""
        return [control.line for control in self.controls]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Return what was filled in, by field; what was left empty is left out, so that defaults hold.

        NaN stays NaN: the model refuses it by name.
        """
        named = zip(self.controls, given, strict=True)
        read = {control.name: read_value(control.info, value) for control, value in named}
        return {name: value for name, value in read.items() if value is not None}

    def filled(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the updates that show these values; a field that is not among them shows its default."""
        return [
            gr.update(value=shown_value(control.info, values.get(control.name, default_of(control.info))))
            for control in self.controls
        ]

    def problems(self, problems: Sequence[Problem]) -> list[str]:
        """Return the HTML for each field's line; an empty one takes an earlier problem away."""
        names = [control.name for control in self.controls]
        return [
            widgets.problem_line([one for one in problems if field_of(one, names) == name]) for name in names
        ]

    def rest(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems that concern none of the fields here."""
        names = [control.name for control in self.controls]
        return [one for one in problems if not field_of(one, names)]


def field_of(problem: Problem, names: Sequence[str]) -> str:
    """Return which of these fields a problem's dotted path names, or an empty string."""
    return next((part for part in problem.field.split(".") if part in names), "")


def make_form(fields: Mapping[str, FieldInfo], defaults: Mapping[str, Any] | None = None) -> Form:
    """Make the controls of these fields where the caller's layout stands.

    Args:
        fields: a model's `model_fields`, or some of them, in the order of the form.
        defaults: values that this page starts with instead of the field's own.
    """
    given = defaults or {}
    return Form(tuple(_control(name, info, given.get(name)) for name, info in fields.items()))


@dataclass(frozen=True)
class SharedForm:
    """The fields of several models, one of which is shown: equal fields have one control for all.

    Attributes:
        fields: of each model, by its name.
        controls: one for each distinct field.
        columns: what each control stands in, to be shown or hidden.
        places: which controls each model's fields have, in their order.
    """

    fields: Mapping[str, Mapping[str, FieldInfo]]
    controls: tuple[Control, ...]
    columns: tuple[Any, ...]
    places: Mapping[str, tuple[int, ...]]

    @property
    def inputs(self) -> list[Any]:
        """The components to read, whichever are shown."""
        return [control.component for control in self.controls]

    @property
    def shown(self) -> list[Any]:
        """The components that `choose` updates."""
        return [*self.columns, *self.inputs]

    def choose(self, model: str) -> list[Any]:
        """Show one model's fields, with its own defaults and help."""
        fields = dict(zip(self.places[model], self.fields[model].values(), strict=True))
        columns = [gr.Column(visible=place in fields) for place in range(len(self.controls))]
        starts = [
            gr.update(
                value=shown_value(fields[place], default_of(fields[place])), info=fields[place].description
            )
            if place in fields
            else gr.skip()
            for place in range(len(self.controls))
        ]
        return [*columns, *starts]

    def values(self, model: str, given: Sequence[Any]) -> dict[str, Any]:
        """Return what was filled in of one model's fields, as `Form.values` does."""
        named = zip(self.fields[model].items(), self.places[model], strict=True)
        read = {name: read_value(info, given[place]) for (name, info), place in named}
        return {name: value for name, value in read.items() if value is not None}


def make_shared_form(fields: Mapping[str, Mapping[str, FieldInfo]], first: str) -> SharedForm:
    """Make one control for each distinct field: equal in name, type and bounds.

    Args:
        fields: of each model, by its name.
        first: the model that is shown at the start.
    """
    kinds: dict[tuple[Any, ...], int] = {}
    places: dict[str, tuple[int, ...]] = {}
    for model in (first, *(name for name in fields if name != first)):
        keys = [_kind(name, info) for name, info in fields[model].items()]
        places[model] = tuple(kinds.setdefault(key, len(kinds)) for key in keys)
    samples = {
        place: item
        for model in fields
        for place, item in zip(places[model], fields[model].items(), strict=True)
    }
    samples |= dict(zip(places[first], fields[first].items(), strict=True))
    controls, columns = [], []
    for place in range(len(kinds)):
        column = _field(is_shown=place in places[first])
        controls.append(_control(*samples[place], None, column))
        columns.append(column)
    return SharedForm(fields, tuple(controls), tuple(columns), places)


def _kind(name: str, info: FieldInfo) -> tuple[Any, ...]:
    """Return what two fields have in common that can share a control."""
    kind, is_optional = plain_type(info.annotation)
    least, most = bounds(info)
    start = default_of(info)
    is_slider = kind is float and not is_optional and _is_narrow(least, most, start)
    return name, str(kind), is_optional, (least, most) if is_slider else is_slider


def edited(component: Any) -> Any:
    """Return the event that tells that somebody changed a component.

    A text box's `input` misses what is pasted (Gradio 6.31), so its `change` is taken.
    """
    return component.change if isinstance(component, gr.Textbox) else component.input


def control_for(name: str, info: FieldInfo, value: Any = None, **arguments: Any) -> Any:
    """Make the component of one field: switch, choice, number or text, by the field's type."""
    kind, is_optional = plain_type(info.annotation)
    start = default_of(info) if value is None else value
    shared = {"label": label_of(name, info), "info": info.description, **arguments}
    if kind is bool:
        return gr.Checkbox(value=bool(start), **shared)
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=[str(one) for one in get_args(kind)], value=start, **shared)
    if kind in (int, float):
        return _number(info, kind, start, is_optional, shared)
    return gr.Textbox(value="" if start is None else str(start), max_lines=1, **shared)


def bounds(info: FieldInfo) -> tuple[float | None, float | None]:
    """Return the least and the greatest value that a number may take, where the field says."""
    least: float | None = None
    most: float | None = None
    for mark in info.metadata:
        if isinstance(mark, annotated_types.Ge):
            least = float(mark.ge)  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Gt):
            least = float(mark.gt)  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Le):
            most = float(mark.le)  # type: ignore[arg-type]
        elif isinstance(mark, annotated_types.Lt):
            most = float(mark.lt)  # type: ignore[arg-type]
    return least, most


def label_of(name: str, info: FieldInfo) -> str:
    """Return a field's label: its title, or its name in words."""
    words = info.title or _LABELS.get(name) or name.strip("_").replace("_", " ")
    return words[:1].upper() + words[1:]


def default_of(info: FieldInfo) -> Any:
    """Return a field's default, or None where it has none."""
    default = info.get_default(call_default_factory=False)
    return None if default is PydanticUndefined else default


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """Return a field's type without "or nothing", and whether nothing is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _bare(kinds[0]), len(kinds) < len(get_args(annotation))
    return _bare(annotation), False


def read_value(info: FieldInfo, value: Any) -> Any:
    """Return what a control gave as the field's own type; None where it was left empty."""
    kind, _ = plain_type(info.annotation)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        value = _as_number(value.strip()) if kind in (int, float) else value.strip()
    if kind is int and isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def shown_value(info: FieldInfo, value: Any) -> Any:
    """Return a field's value as its control holds it; where nothing may stand, a number is a text."""
    kind, is_optional = plain_type(info.annotation)
    if kind is bool or get_origin(kind) is Literal or (kind in (int, float) and not is_optional):
        return value
    return "" if value is None else str(value)


def _field(*, is_shown: bool = True) -> Any:
    """Make the place of one control and its line, without the box that Gradio puts around controls."""
    column = gr.Column(visible=is_shown, min_width=150, elem_classes="lab-field")
    column.allow_expected_parents = False
    return column


def _control(name: str, info: FieldInfo, value: Any, column: Any = None) -> Control:
    with column or _field():
        component = control_for(name, info, value)
        line = widgets.picture(elem_classes="lab-field-problem")
    return Control(name, info, component, line)


def _number(info: FieldInfo, kind: Any, start: Any, is_optional: bool, shared: dict[str, Any]) -> Any:
    least, most = bounds(info)
    if is_optional:  # Gradio's number shows 0 where there is none
        return gr.Textbox(
            value="" if start is None else str(start), placeholder="automatic", max_lines=1, **shared
        )
    if kind is float and _is_narrow(least, most, start):
        return gr.Slider(minimum=least, maximum=most, value=start, step=0.01, buttons=[], **shared)
    # Bounds are left to the model, whose message says what was seen and what was expected.
    return gr.Number(value=start, step=1 if kind is int else 0.01, **shared)


def _is_narrow(least: float | None, most: float | None, start: float | None) -> bool:
    """Whether a slider in steps of 0.01 can reach every value that makes sense."""
    if least is None or most is None or start is None or most - least > 2:
        return False
    return start == 0 or start >= (most - least) / 50


def _as_number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text  # the model refuses it and says what was seen


def _bare(annotation: Any) -> Any:
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
