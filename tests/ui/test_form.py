"""A model's fields become controls, and what is filled in comes back as the model takes it."""

import math
from typing import Annotated, Any, Literal

import gradio as gr
import pytest
from pydantic import Field, ValidationError

from lab.core.errors import Problem, problems_of
from lab.core.spec import Spec
from lab.merge.registry import merge_methods
from lab.tune.spec import TuneSpec
from lab.ui import form


class Knobs(Spec):
    """One field of each sort."""

    density: Annotated[float, Field(ge=0, le=1, description="Share to keep")] = 0.4
    rate: Annotated[float, Field(gt=0, lt=1, description="A small one")] = 0.0002
    rank: Annotated[int, Field(ge=1, le=64, description="Width")] = 16
    steps: Annotated[int | None, Field(ge=1, description="Empty is automatic")] = None
    rescale: Annotated[bool, Field(description="Give back")] = True
    scheduler: Literal["cosine", "linear"] = "cosine"
    name: Annotated[str, Field(min_length=1, description="What to call it")]


@pytest.fixture
def knobs() -> form.Form:
    with gr.Blocks():
        return form.make_form(Knobs.model_fields)


def test_each_sort_of_field_gets_its_control(knobs: form.Form) -> None:
    kinds = {control.name: type(control.component).__name__ for control in knobs.controls}
    assert kinds == {
        "density": "Slider", "rate": "Number", "rank": "Number", "steps": "Textbox", "rescale": "Checkbox",
        "scheduler": "Dropdown", "name": "Textbox",
    }  # fmt: skip


def test_label_help_bounds_and_default_come_from_the_field(knobs: form.Form) -> None:
    density = knobs.controls[0].component
    assert (density.label, density.info, density.minimum, density.maximum, density.value) == (
        "Density", "Share to keep", 0.0, 1.0, 0.4,
    )  # fmt: skip


def filled(**changes: Any) -> list[Any]:
    values = {
        "density": 0.4, "rate": 0.0002, "rank": 16, "steps": "", "rescale": True, "scheduler": "cosine",
        "name": "x",
    }  # fmt: skip
    return list((values | changes).values())


def test_what_is_left_empty_takes_the_field_s_default(knobs: form.Form) -> None:
    values = knobs.values(filled(rank=None, steps="  "))
    assert not {"rank", "steps"} & set(values)
    assert Knobs.model_validate(values).rank == 16


def test_whole_numbers_come_back_whole(knobs: form.Form) -> None:
    values = knobs.values(filled(rank=8.0, steps="1,000"))
    assert (values["rank"], values["steps"]) == (8, 1000)
    assert isinstance(values["rank"], int)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"density": math.nan}, "density"),
        ({"density": math.inf}, "density"),
        ({"rank": 2.5}, "rank"),
        ({"rank": 0}, "rank"),
        ({"steps": "many"}, "steps"),
        ({"steps": "nan"}, "steps"),
        ({"scheduler": "square"}, "scheduler"),
        ({"name": " "}, "name"),
    ],
)
def test_a_bad_value_is_refused_beside_its_field_and_nowhere_else(
    knobs: form.Form, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Knobs.model_validate(knobs.values(filled(**change)))
    problems = problems_of(refused.value)
    lines = dict(zip([control.name for control in knobs.controls], knobs.problems(problems), strict=True))
    assert [name for name, line in lines.items() if line] == [field]
    assert knobs.rest(problems) == []


def test_a_problem_of_no_field_here_goes_to_the_whole_form(knobs: form.Form) -> None:
    problems = [Problem("", "The disk is full."), Problem("model", "There is none.")]
    assert knobs.rest(problems) == problems
    assert not any(knobs.problems(problems))


def test_a_nested_path_finds_its_field(knobs: form.Form) -> None:
    assert knobs.problems([Problem("parameters.density", "Too large.")])[0]


def test_every_knob_of_every_method_has_a_control_and_its_help() -> None:
    with gr.Blocks():
        for method in merge_methods.values():
            made = form.make_form(method.knobs.model_fields)
            assert all(control.component.info for control in made.controls), method.name


def test_the_fine_tune_form_repeats_the_spec_s_defaults() -> None:
    own = {"kind", "model", "dataset", "name"}
    with gr.Blocks():
        made = form.make_form({name: info for name, info in TuneSpec.model_fields.items() if name not in own})
    values = made.values([control.component.value for control in made.controls])
    names = {"model": "m", "dataset": "d", "name": "n"}
    assert TuneSpec(**names, **values) == TuneSpec(**names)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"learning_rate": 1.23456789e-5, "dropout": 0.055, "alpha": 12.3456789, "epochs": 0.5},
        {"max_steps": 1_000_000, "max_length": 1 << 20, "held_out": 0, "seed": (1 << 32) - 1},
        {"full_model": True, "full_model_name": "1e3", "scheduler": "constant", "micro_batch": 4},
    ],
)
def test_what_a_form_is_filled_with_is_read_back_exactly(settings: dict[str, Any]) -> None:
    spec = TuneSpec(model="m", dataset="d", name="n", **settings)
    fields = {name: info for name, info in TuneSpec.model_fields.items() if name != "kind"}
    with gr.Blocks():
        made = form.make_form(fields)
    shown = [
        component.preprocess(component.postprocess(update["value"]))
        for component, update in zip(made.inputs, made.filled(spec.model_dump()), strict=True)
    ]
    assert TuneSpec.model_validate(made.values(shown)) == spec


def test_a_field_that_nothing_is_said_of_goes_back_to_its_default(knobs: form.Form) -> None:
    shown = {
        one.name: update["value"]
        for one, update in zip(knobs.controls, knobs.filled({"rank": 4}), strict=True)
    }
    assert shown == {
        "density": 0.4, "rate": 0.0002, "rank": 4, "steps": "", "rescale": True,
        "scheduler": "cosine", "name": "",
    }  # fmt: skip


@pytest.fixture
def shared() -> form.SharedForm:
    fields = {name: dict(merge_methods[name].knobs.model_fields) for name in merge_methods}
    with gr.Blocks():
        return form.make_shared_form(fields, "ties")


def test_knobs_of_one_name_type_and_bounds_share_a_control(shared: form.SharedForm) -> None:
    names = [control.name for control in shared.controls]
    assert names.count("density") == names.count("normalize") == 1
    assert names.count("t") == 2  # a slider for slerp, a number for nearswap
    assert len(names) < sum(len(fields) for fields in shared.fields.values()) / 2


@pytest.mark.parametrize("method", list(merge_methods))
def test_a_chosen_method_shows_its_knobs_with_its_own_defaults(shared: form.SharedForm, method: str) -> None:
    updates = shared.choose(method)
    columns, values = updates[: len(shared.controls)], updates[len(shared.controls) :]
    shown = [place for place, column in enumerate(columns) if column.visible]
    assert sorted(shared.places[method]) == shown
    given = [
        update.get("value", control.component.value)
        for update, control in zip(values, shared.controls, strict=True)
    ]
    defaults = {
        name: form.default_of(info) for name, info in merge_methods[method].knobs.model_fields.items()
    }
    assert shared.values(method, given) == defaults
