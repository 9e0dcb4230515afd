"""From the merge form to a spec."""

import pytest
from pydantic import ValidationError
from ui_rows import model

from lab.core.errors import BadInput
from lab.core.store.rows import ModelRow
from lab.merge.registry import merge_methods
from lab.ui.mergechoice import groups, ordered_methods, which_one
from lab.ui.mergeform import Filled, read_ranges, solar_ranges, stacks_layers
from lab.ui.mergetexts import OWN, data_for
from lab.ui.modelview import base_of_adapters


def test_solar_s_ranges_drop_m_layers_from_each_copy() -> None:
    assert solar_ranges(32, 8) == "0-24\n8-32"  # the paper's: two copies of 24 layers make 48
    assert read_ranges(solar_ranges(32, 8), "m") == [("m", (0, 24)), ("m", (8, 32))]


def test_a_range_may_name_another_model() -> None:
    assert read_ranges("0-2\n\n other.model : 1 - 3 ", "m") == [("m", (0, 2)), ("other.model", (1, 3))]


@pytest.mark.parametrize("text", ["", "0", "a-b", "0-2-4", "-1-3", "0..4"])
def test_a_line_that_is_no_range_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_ranges(text, "m")
    assert refused.value.field == "slices"


def test_the_form_s_numbers_reach_the_spec() -> None:
    spec = Filled("ties", (("a", 0.5), ("b", 1.0)), base="base", name="ab", knobs={"density": 0.4}).spec()
    assert [(source.model, source.parameters["weight"]) for source in spec.models] == [("a", 0.5), ("b", 1.0)]
    assert spec.base_model == "base"
    assert spec.parameters["density"] == 0.4


def test_a_method_of_one_model_stacks_its_layers() -> None:
    assert [stacks_layers(name) for name in ("passthrough", "ties")] == [True, False]
    spec = Filled("passthrough", (("m", 1.0),), name="deep", ranges="0-3\n1-4").spec()
    assert [part.sources[0].layer_range for part in spec.slices] == [(0, 3), (1, 4)]
    assert spec.is_upscaling


def test_stacking_without_a_model_names_the_field() -> None:
    with pytest.raises(BadInput) as refused:
        Filled("passthrough", (), name="deep", ranges="0-3").spec()
    assert refused.value.field == "models"


def test_yaml_replaces_the_form_but_not_the_name() -> None:
    recipe = (
        "merge_method: linear\nmodels:\n  - model: x\n    parameters: {weight: 1}\n"
        "  - model: y\n    parameters: {weight: [0, 1]}\n"
    )
    spec = Filled("ties", (("a", 1.0),), name="xy", recipe=recipe).spec()
    assert (spec.method, spec.name, spec.models_used()) == ("linear", "xy", ("x", "y"))
    assert spec.models[1].parameters["weight"] == (0, 1)


def test_merges_on_the_way_are_listed_where_that_is_asked() -> None:
    step = "merge_method: linear\nmodels: [{model: x, parameters: {weight: 1}}]\n"
    recipe = f"name: half\n{step}---\n{step.replace('x', 'half')}"
    filled = Filled("ties", (), name="xy", recipe=recipe, keeps_steps=True)
    assert filled.spec().models_made() == ("xy-half", "xy")
    assert Filled("ties", (), name="xy", recipe=recipe).spec().models_made() == ("xy",)


def test_adapters_become_an_adapter_where_that_is_asked() -> None:
    filled = Filled("linear", (("a", 1.0), ("b", 1.0)), name="ab", is_adapter=True, rank=8)
    assert (filled.spec().result, filled.spec().rank) == ("adapter", 8)
    assert Filled("linear", (("a", 1.0),), name="ab", rank=8).spec().result == "model"


def test_only_adapters_of_one_base_are_offered_to_become_an_adapter() -> None:
    def row(name: str, kind: str, *parents: str) -> ModelRow:
        return ModelRow(name, kind, "lab", parents, "", {}, 1, "0" * 64, None, 0.0)

    rows = [row("base", "base"), row("a", "adapter", "base"), row("b", "adapter", "base")]
    rows += [row("c", "adapter", "other"), row("m", "merge", "a", "b")]
    chosen = [("a", "b", None), ("a",), ("a", "c"), ("a", "base"), ("a", "m"), (None, None)]
    assert [base_of_adapters(rows, names) for names in chosen] == ["base", "base", "", "", "", ""]


def test_every_method_is_offered_once_in_a_group() -> None:
    assert sorted(ordered_methods()) == list(merge_methods)
    assert all(names for _, names in groups())
    assert all(f"<b>{name}</b>" in which_one() for name in merge_methods)


def test_the_form_s_seed_reaches_the_spec() -> None:
    assert Filled("dare_ties", (("a", 1.0),), base="base", name="x", seed=7).spec().seed == 7


def test_the_texts_that_models_read_reach_the_spec() -> None:
    filled = Filled("regmean", (("a", 1.0), ("b", 1.0)), name="ab", data={"a": "pirate", "b": "sums"})
    assert filled.spec().datasets_used() == ("pirate", "sums")
    with pytest.raises(ValidationError, match="b has no text to read"):
        Filled("regmean", (("a", 1.0), ("b", 1.0)), name="ab", data={"a": "pirate"}).spec()


def test_each_model_reads_its_own_training_data_or_all_the_same() -> None:
    rows = [model("a", facts={"dataset": "pirate"}), model("b", facts={})]
    assert data_for(["a", "b"], OWN, rows) == {"a": "pirate"}
    assert data_for(["a", "b"], "sums", rows) == {"a": "sums", "b": "sums"}
    assert data_for(["a"], None, rows) == {}


def test_yaml_with_experts_is_a_mixture_of_experts() -> None:
    recipe = "base_model: a\ngate_mode: random\nexperts:\n  - source_model: a\n  - source_model: b\n"
    spec = Filled("ties", (("a", 1.0),), name="ab", recipe=recipe).spec()
    assert (spec.kind, spec.name, spec.models_used()) == ("moe", "ab", ("a", "b"))
