"""The merge spec: what it can say, what it writes in, and what it refuses with the field at fault."""

from typing import Any

import pytest
from pydantic import ValidationError

from lab.core.errors import BadInput, problems_of
from lab.core.spec import canonical_json
from lab.merge.parameters import Filtered, place_of, value_for
from lab.merge.spec import MergeSpec, merge_of, upscaled

TWO = [("a", 1.0), ("b", 0.5)]


def refusals(**fields: Any) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        MergeSpec.model_validate({"name": "out", **fields})
    return [str(problem) for problem in problems_of(refused.value)]


def test_defaults_are_written_in_so_that_the_stored_spec_repeats():
    spec = merge_of("ties", TWO, base="base", name="out", knobs={"density": 0.4})
    assert spec.parameters == {"density": 0.4, "normalize": True, "rescale": False, "lambda": 1.0}
    assert MergeSpec.model_validate_json(canonical_json(spec)) == spec


def test_the_same_merge_has_the_same_spelling_whatever_the_number_looked_like():
    one = merge_of("linear", [("a", 1), ("b", 2)], name="out", knobs={"normalize": 1})
    two = merge_of("linear", [("a", 1.0), ("b", 2.0)], name="out")
    assert canonical_json(one) == canonical_json(two)


def test_a_merge_says_in_words_what_it_is_and_what_it_uses():
    spec = merge_of("ties", [*TWO, ("a", -0.5)], base="base", name="out")
    assert spec.title == "ties merge of a and b"
    assert spec.models_used() == ("base", "a", "b")
    assert spec.models_made() == ("out",)


def test_methods_without_weights_or_base_leave_them_out_of_the_spec():
    assert merge_of("sce", TWO, base="base", name="out").models[0].parameters == {}
    assert merge_of("linear", TWO, base="base", name="out").base_model is None
    assert merge_of("slerp", TWO, name="out").base_model == "a"


def test_depth_upscaling_drops_the_end_of_the_first_copy_and_the_start_of_the_second():
    spec = upscaled("solar", 32, 8, name="out")
    assert [part.sources[0].layer_range for part in spec.slices] == [(0, 24), (8, 32)]
    assert spec.is_upscaling
    assert spec.title == "solar, its layers stacked to 48"


@pytest.mark.parametrize("drop", [-1, 30, 31])
def test_depth_upscaling_refuses_an_m_that_leaves_no_layer(drop: int):
    with pytest.raises(BadInput, match="m is between 0 and 29") as refused:
        upscaled("m", 30, drop, name="out")
    assert refused.value.field == "m"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"method": "tie"}, "method: There is no merge method 'tie'. Did you mean 'ties'?"),
        (
            {"parameters": {"densty": 0.5}},
            "parameters: densty: There is no parameter of ties 'densty'. Did you mean",
        ),
        ({"parameters": {"density": 1.5}}, "parameters: density: Input should be less than or equal to 1"),
        (
            {"parameters": {"density": [0.5, -0.1]}},
            "parameters: density: Input should be greater than or equal to 0",
        ),
        ({"parameters": {"density": float("nan")}}, "parameters.density: We saw 'nan'."),
        (
            {"parameters": {"density": [{"filter": "mlp", "value": float("inf")}]}},
            "parameters.density: We saw",
        ),
        (
            {"models": [{"model": "a", "parameters": {"weight": "much"}}]},
            "models: 0.parameters.weight: Input should",
        ),
        (
            {"models": [{"model": "a", "parameters": {"normalize": True}}]},
            "models: 0.parameters.normalize: normalize is",
        ),
        ({"base_model": None}, "base_model is missing; ties needs a base"),
        ({"models": []}, "A merge has models or slices"),
        ({"models": [{"model": "base"}]}, "models: 0 models besides the base. ties takes 1 to 8"),
        (
            {"models": [{"model": f"m{i}"} for i in range(9)]},
            "models: 9 models besides the base. ties takes 1 to 8",
        ),
        ({"models": [{"model": "a", "layer_range": [0, 2]}]}, "models: 0.layer_range: models are whole"),
        ({"name": "../out"}, "name: String should match pattern"),
        ({"name": ".."}, "name: A name needs at least one letter or digit."),
        ({"dtype": "int8"}, "dtype: Input should be 'float32', 'bfloat16' or 'float16'"),
        ({"wieght": 1}, "wieght: Extra inputs are not permitted"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], problem: str):
    good = {"method": "ties", "base_model": "base", "models": [{"model": "a", "parameters": {"weight": 1}}]}
    assert any(line.startswith(problem) for line in refusals(**(good | fields))), refusals(**(good | fields))


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([{"model": "a", "layer_range": [3, 3]}], "The layer range 3 to 3 holds no layer"),
        ([{"model": "a", "layer_range": [5, 2]}], "The layer range 5 to 2 holds no layer"),
        ([{"model": "a", "layer_range": [-1, 2]}], "greater than or equal to 0"),
        ([{"model": "a"}], "layer_range is missing"),
        ([{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 3]}], "2, 3 layers"),
        (
            [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}],
            "passthrough takes 1",
        ),
    ],
)
def test_layer_ranges_that_hold_nothing_or_differ_are_refused(sources: list[dict], words: str):
    assert words in "\n".join(refusals(method="passthrough", slices=[{"sources": sources}]))


def test_a_merge_has_models_or_slices_not_both():
    both = {"models": [{"model": "a"}], "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]}
    assert "models or slices, one of the two" in refusals(method="passthrough", **both)[0]


def test_a_method_without_a_base_does_not_take_one_in_silence():
    models = [{"model": "a", "parameters": {"weight": 1}}]
    assert "is not among the models" in refusals(method="linear", base_model="base", models=models)[0]


def test_a_gradient_runs_over_the_layers_of_its_slice():
    gradient = {"t": (0.0, 0.5, 1.0)}
    places = [place_of(layer, 5) for layer in range(5)]
    assert [value_for("t", [gradient], "x", place) for place in places] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert place_of(0, 1) == 1.0
    assert value_for("on", [{"on": (True, False)}], "x", 0.75) is True
    assert value_for("on", [{"on": (True, False)}], "x", 1.0) is False


def test_the_first_filter_that_matches_counts_and_else_the_next_level():
    filters = (
        Filtered(filter="self_attn", value=(0.0, 1.0)),
        Filtered(filter="mlp", value=0.3),
    )
    levels = [{"t": filters}, {"t": 0.9}]
    assert value_for("t", levels, "model.layers.1.self_attn.q_proj.weight", 0.5) == 0.5
    assert value_for("t", levels, "model.layers.1.mlp.up_proj.weight", 0.5) == 0.3
    assert value_for("t", levels, "model.norm.weight", 0.0) == 0.9
    assert value_for("t", [{"t": (Filtered(filter="*", value=0.1),)}], "model.norm.weight", 0.0) == 0.1
    assert value_for("t", [{"t": (Filtered(filter="mlp", value=0.1),)}], "model.norm.weight", 0.0, 0.5) == 0.5


def test_another_seed_is_that_of_the_steps_before_too() -> None:
    step = merge_of("dare_ties", TWO, base="base", name="step").model_dump()
    last = merge_of("dare_ties", [("step", 1.0), ("a", 1.0)], base="base", name="out").model_dump()
    spec = MergeSpec.model_validate(last | {"intermediates": [step]}).with_seed(7)
    assert (spec.seed, spec.intermediates[0].seed) == (7, 7)


def test_a_base_that_is_a_third_model_is_named_with_the_way_out() -> None:
    with pytest.raises(
        ValidationError, match=r"3 models, the base base among them.*one of the others as base"
    ):
        merge_of("slerp", TWO, base="base", name="out", knobs={"t": 0.5})
