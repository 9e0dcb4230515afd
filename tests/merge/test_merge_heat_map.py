"""Which numbers the heat map of a merge shows, counted by hand from recipes."""

from pathlib import Path

import pytest
from tiny_merge import TinyShelf, tensors_of
from tiny_vocabularies import add_model, words_tokenizer

from lab.merge.check import check
from lab.merge.plan import MergePlan
from lab.merge.recipe import read_recipe
from lab.ui.charts import HeatRow
from lab.ui.mergeform import Filled, plan_html, vocabulary_html
from lab.ui.mergeheat import drawable, heat_rows


@pytest.fixture
def shelf(tmp_path: Path) -> TinyShelf:
    shelf = TinyShelf(tmp_path)
    for seed, name in enumerate(("base", "one", "two")):
        shelf.add(name, tensors_of(3, seed=seed, head=True))
    return shelf


def plan(shelf: TinyShelf, text: str) -> MergePlan:
    return check(read_recipe(text, name="out"), shelf)


def shown(row: HeatRow) -> tuple[str, tuple[float | None, ...]]:
    return row.label, row.cells


def test_without_filters_a_model_has_one_row_and_what_is_outside_takes_the_first_value(shelf: TinyShelf):
    recipe = """
    models:
      - {model: one, parameters: {weight: [0.0, 1.0]}}
      - {model: two, parameters: {weight: 0.5}}
    merge_method: linear
    """
    rows = heat_rows(plan(shelf, recipe), "weight")
    assert [shown(row) for row in rows] == [("A", (0.0, 0.5, 1.0)), ("B", (0.5, 0.5, 0.5))]
    assert rows[0].before == (("model.embed_tokens.weight", 0.0),)
    assert rows[0].after == (("model.norm.weight", 0.0), ("lm_head.weight", 0.0))


def test_filters_part_a_model_into_rows_by_module(shelf: TinyShelf):
    recipe = """
    models:
      - model: one
        parameters:
          weight:
            - {filter: mlp, value: [1, 0]}
            - {filter: q_proj, value: 0.75}
            - {filter: lm_head, value: 9}
            - {value: 0.25}
      - {model: two, parameters: {weight: 1}}
    merge_method: linear
    """
    rows = heat_rows(plan(shelf, recipe), "weight")
    assert [shown(row) for row in rows] == [
        ("A rest", (0.25,) * 3),
        ("A mlp", (1.0, 0.5, 0.0)),
        ("A q_proj", (0.75,) * 3),
        ("B", (1.0,) * 3),
    ]
    assert rows[0].after == (("model.norm.weight", 0.25), ("lm_head.weight", 9.0))
    assert [row.after for row in rows[1:3]] == [(), ()]


def test_a_knob_of_all_models_is_drawn_once_by_module(shelf: TinyShelf):
    recipe = """
    models: [{model: one}, {model: two}]
    base_model: one
    merge_method: slerp
    parameters:
      t:
        - {filter: self_attn, value: [0, 0.5, 1]}
        - {filter: mlp, value: [1, 0.5, 0]}
        - {value: 0.5}
    """
    made = plan(shelf, recipe)
    assert drawable(made)[0] == "t"
    assert [shown(row) for row in heat_rows(made, "t")] == [
        ("self_attn", (0.0, 0.5, 1.0)),
        ("mlp", (1.0, 0.5, 0.0)),
        ("input_layernorm +1", (0.5, 0.5, 0.5)),
    ]


def test_what_varies_is_drawn_first_and_knobs_of_each_model_can_be_drawn(shelf: TinyShelf):
    recipe = """
    models:
      - {model: one, parameters: {weight: 1, density: [1.0, 0.0]}}
      - {model: two, parameters: {weight: 0.5, density: 0.3}}
    base_model: base
    merge_method: ties
    """
    made = plan(shelf, recipe)
    names = drawable(made)
    assert names[0] == "density"
    assert {"weight", "lambda"} <= set(names)
    assert [shown(row) for row in heat_rows(made, "density")] == [
        ("A", (1.0, 0.5, 0.0)),
        ("B", (0.3, 0.3, 0.3)),
    ]
    assert [shown(row) for row in heat_rows(made, "lambda")] == [("all", (1.0, 1.0, 1.0))]


def test_a_model_that_is_there_twice_has_two_rows(shelf: TinyShelf):
    recipe = """
    models: [{model: one, parameters: {weight: 1}}, {model: one, parameters: {weight: [0, 1]}}]
    merge_method: linear
    """
    rows = heat_rows(plan(shelf, recipe), "weight")
    assert [shown(row) for row in rows] == [("A", (1.0, 1.0, 1.0)), ("B", (0.0, 0.5, 1.0))]


def test_a_model_without_a_part_in_a_layer_has_a_gap_there(shelf: TinyShelf):
    recipe = """
    slices:
      - sources: [{model: one, layer_range: [0, 2]}]
      - sources: [{model: two, layer_range: [2, 3]}]
    merge_method: linear
    parameters: {weight: 1}
    """
    rows = heat_rows(plan(shelf, recipe), "weight")
    assert [shown(row) for row in rows] == [("A", (1.0, 1.0, None)), ("B", (None, None, 1.0))]
    assert (bool(rows[0].before), bool(rows[0].after)) == (True, False)  # the first slice has the embedding
    assert (bool(rows[1].before), bool(rows[1].after)) == (False, True)  # the last one norm and head


def test_the_page_tells_what_becomes_of_each_vocabulary(tmp_path: Path):
    shelf = TinyShelf(tmp_path)
    add_model(shelf, "a", words_tokenizer(["<unk>", "cat"]), count=3)
    add_model(shelf, "b<i>", words_tokenizer(["<unk>", "dog"]), count=2)
    made = check(Filled("linear", (("a", 1.0), ("b<i>", 1.0)), name="ab", tokenizer="union").spec(), shelf)
    page = plan_html(made)
    assert "<td>b&lt;i&gt;</td><td>2</td><td>2</td><td>0</td><td>1</td><td>0</td><td>0</td>" in page
    assert "3 rows of vocabulary: the tokens of a and 1 more" in page
    assert "Rows of a that belong to no token and are left out: 1." in page
    assert vocabulary_html(made) in page


def test_the_page_tells_what_is_made_first_and_what_has_no_effect(shelf: TinyShelf):
    recipe = """\
name: step
models: [{model: two, parameters: {weight: 1}}]
base_model: one
merge_method: task_arithmetic
parameters: {int8_mask: true}
---
models: [{model: step, parameters: {weight: 1}}]
merge_method: linear
"""
    told: list[str] = []
    spec = Filled("ties", (), name="out", recipe=recipe).spec(told.append)
    assert told == [
        "step: parameters.int8_mask is left out: it has no effect on the result of task_arithmetic."
    ]
    assert "one merge is made first, in the job&#x27;s folder: task_arithmetic" in plan_html(
        check(spec, shelf)
    )
