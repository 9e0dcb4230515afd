"""The live merge's controls give back the recipe that they show, and its words say the numbers."""

from typing import Any

import gradio as gr
import pytest
from ui_rows import model

from lab.core.errors import BadInput, Problem
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec, merge_of
from lab.ui.livefields import MOST_SIBLINGS, LiveFields, lay_out_fields, offered
from lab.ui.liverecipes import heads, without_paths, words_of


@pytest.fixture
def fields() -> LiveFields:
    with gr.Blocks():
        return lay_out_fields()


def given(fields: LiveFields, recipe: MergeSpec) -> list[Any]:
    """Return what the controls hold once they show a recipe."""
    held = []
    for update, component in zip(fields.filled(recipe), fields.inputs, strict=True):
        is_update = isinstance(update, dict)
        held.append(update.get("value", component.value) if is_update else update)
    return held


@pytest.mark.parametrize("method", sorted(offered()))
def test_the_controls_give_back_the_recipe_that_they_show(fields: LiveFields, method: str) -> None:
    base = {"base": "base"} if merge_methods[method].base == "delta" else {}
    recipe = merge_of(method, [("pirate", 0.25), ("sums", 0.75)], name="mix", **base)
    assert fields.recipe(given(fields, recipe), "mix") == recipe


def test_only_methods_that_merge_several_models_and_keep_up_are_offered() -> None:
    assert {"linear", "task_arithmetic", "ties", "sce"} <= set(offered())
    assert "passthrough" not in offered()


def test_sliders_appear_for_the_chosen_siblings_and_knobs_for_the_method(fields: LiveFields) -> None:
    base, *rest = fields.shown(["pirate", "sums"], "ties")
    sliders, knobs = rest[:MOST_SIBLINGS], rest[MOST_SIBLINGS:]
    assert base["visible"]
    assert [one["visible"] for one in sliders] == [True, True, False, False]
    assert sliders[1]["label"] == "Weight of sums"
    shown = {knob.name for knob, update in zip(fields.knobs, knobs, strict=True) if update["visible"]}
    assert shown == set(merge_methods["ties"].parameters) - {"weight"}


def test_a_live_merge_that_is_off_is_no_recipe_and_one_without_models_is_refused(fields: LiveFields) -> None:
    off = [False, *(component.value for component in fields.inputs[1:])]
    assert fields.recipe(off, "mix") is None
    with pytest.raises(BadInput, match="Choose them"):
        fields.recipe([True, None, *off[2:]], "mix")


def test_the_recipe_stands_over_its_column() -> None:
    recipe = merge_of("ties", [("a", 0.5), ("b", 1.0)], name="live", base="c", knobs={"density": 0.4})
    assert words_of(recipe) == "ties: a 0.5, b 1 · density 0.4"
    spec = {"models": ["a", "live"], "recipes": [recipe.model_dump(mode="json")]}
    first, second = heads([model("a", words="tuned")], spec)
    assert (first.words, second.words) == ("tuned", words_of(recipe))


def test_a_recipes_problem_is_shown_without_the_path_to_it() -> None:
    told = without_paths([Problem("recipes.0.models.1.model", "b is wide."), Problem("seed", "Too large.")])
    assert told == [Problem("", "b is wide."), Problem("seed", "Too large.")]
