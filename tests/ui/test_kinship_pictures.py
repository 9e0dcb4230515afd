"""Pictures and HTML of a look into models, and which job shows it."""

import torch
from ui_rows import NASTY, job, model

from lab.merge.inspect.kinship import measure
from lab.merge.inspect.places import Place
from lab.merge.inspect.report import Figures, Report
from lab.score.blame import Blame
from lab.ui import insight, kinshipcharts, kinshipview, outcomeview
from lab.ui.mergeform import Filled

BASE = torch.linspace(-1, 1, 64)


def report(models: tuple[str, ...] = ("pirate", "sums"), purpose="before") -> Report:
    noise = torch.Generator().manual_seed(1)
    names = [
        f"model.layers.{n}.{kind}.weight" for n in range(3) for kind in ("mlp.up_proj", "input_layernorm")
    ]
    figures = [
        Figures(name, 64, measure(BASE, BASE + 0.01 * torch.randn(len(models), 64, generator=noise)), 64)
        for name in [*names, "model.embed_tokens.weight"]
    ]
    return Report("base", models, figures, purpose)


def test_there_is_a_map_of_distance_for_each_model_and_two_for_each_pair() -> None:
    keys = [view.key for view in kinshipcharts.views(report(("a", "b", "c")))]
    assert keys == ["d0", "d1", "d2", "c0", "s0", "c1", "s1", "c2", "s2"]
    assert [view.key for view in kinshipcharts.views(report(purpose="after"))] == ["d0", "d1", "n"]


def test_a_map_has_a_row_for_each_kind_and_names_every_cell() -> None:
    shown = report()
    view = kinshipcharts.views(shown)[0]
    (heat,) = kinshipcharts.kinship_map(shown, view).data
    assert list(heat.x) == [0, 1, 2]
    assert list(heat.y) == ["up_proj ", "input_norm "]
    assert heat.customdata[1][2] == "2|input_layernorm"
    expected = shown.cells[Place(2, "input_layernorm")].distance(0)
    assert heat.z[1][2] == expected
    assert kinshipcharts.place_from("2|input_layernorm") == Place(2, "input_layernorm")
    assert kinshipcharts.place_from("|embed_tokens") == Place(None, "embed_tokens")
    assert kinshipcharts.place_from("x|y") is None
    assert kinshipcharts.place_from("") is None


def test_conflicts_are_coloured_around_chance_and_cosines_around_nothing() -> None:
    shown = report()
    _, _, cosine, conflicts = kinshipcharts.views(shown)
    for view, middle in ((cosine, 0.0), (conflicts, 0.5)):
        scale = kinshipcharts.scale_of(shown, view)
        assert scale.low + scale.high == 2 * middle
        assert scale.marks[1] == ("50 %" if middle else "0.00")
    assert kinshipcharts.scale_of(shown, conflicts).colours[-1] == "#d55e00"


def test_the_changes_of_all_models_are_drawn_with_dares_bounds_before_a_merge_only() -> None:
    before = kinshipcharts.changes_chart(report(), report().whole, "<b>changes</b>")
    assert [line.name for line in before.data] == ["A pirate", "B sums"]
    assert all(abs(sum(line.y) - 1) < 0.02 for line in before.data)
    assert [note.text for note in before.layout.annotations] == [
        "DARE drops 90 % within 0.005",
        "fails at 0.03",
    ]
    assert "<" not in before.layout.title.text
    after = kinshipcharts.changes_chart(report(purpose="after"), report().whole, "changes")
    assert not after.layout.annotations


def test_a_cell_shows_its_tensor_and_every_model() -> None:
    html = kinshipview.cell_html(report(), Place(1, "mlp.up_proj"))
    assert "Layer 1, mlp.up_proj" in html
    assert "model.layers.1.mlp.up_proj.weight" in html
    assert "cosine of changes" in html
    assert "Norm of base" in kinshipview.cell_html(report(purpose="after"), None)


def test_names_of_models_are_escaped_everywhere() -> None:
    shown = report((NASTY, "b"))
    html = (
        kinshipview.cell_html(shown, None)
        + kinshipview.outside_html(shown, None)
        + kinshipview.sentences_html([{"text": NASTY, "look": "calm"}])
        + outcomeview.blame_html(Blame("merge", NASTY))
    )
    assert "<img" not in html


def test_what_was_foretold_stands_beside_what_was_real() -> None:
    before = {"seconds": 4.0, "memory_bytes": 80e6, "disk_bytes": 269e6}
    real = {"seconds": 62.0, "memory_bytes": 40e6, "disk_bytes": 269e6, "cpu_seconds": 3.0}
    html = outcomeview.cost_html(job(result={"cost": {"foretold": before, "real": real}}))
    assert all(words in html for words in ("4 s", "1 min 2 s (3 s of computing)", "80.0 MB", "40.0 MB"))
    assert outcomeview.cost_html(job()) == outcomeview.cost_html(None) == ""


def test_the_form_is_looked_at_against_its_base_or_else_its_first_model() -> None:
    rows = [model(name, manifest_sha256=name * 2) for name in ("base", "a", "b")]
    inputs = (("a", 1.0), ("b", 1.0), ("base", 1.0))
    spec = insight.wanted(Filled("ties", inputs, base="base"), rows)
    assert (spec.base, spec.models, spec.manifests) == ("base", ("a", "b"), ("basebase", "aa", "bb"))
    alone = insight.wanted(Filled("linear", inputs[:2]), rows)
    assert (alone.base, alone.models) == ("a", ("b",))


def test_a_pasted_recipe_says_which_models_are_looked_at() -> None:
    recipe = (
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "- {model: x, parameters: {weight: 1}}\n- {model: y, parameters: {weight: 1}}\n"
    )
    spec = insight.wanted(Filled("ties", (("a", 1.0),), name="m", recipe=recipe), [])
    assert (spec.base, spec.models) == ("base", ("x", "y"))


def test_a_merge_of_layer_ranges_is_not_compared_layer_by_layer() -> None:
    stacked = job(spec={"slices": [{"sources": []}]})
    assert insight.is_stacked(model("m", kind="merge"), stacked)
    assert insight.is_stacked(model("m", kind="upscaled"), None)
    assert not insight.is_stacked(model("m", kind="merge"), job(spec={"models": [], "slices": []}))


def test_a_merges_parents_keep_the_forms_letters_and_the_base_comes_last() -> None:
    row = model("m", parents=("base", "a", "b"))
    made = job(spec={"models": [{"model": "b"}, {"model": "a"}], "base_model": "base"})
    assert insight.parents_in_order(row, made) == ["b", "a", "base"]
    assert insight.parents_in_order(row, None) == ["a", "b", "base"]
    assert insight.parents_in_order(model("m", parents=("a",)), None) == ["a"]
