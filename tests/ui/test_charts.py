"""Worked rows to figure data."""

import math

from lab.core.events import Event
from lab.core.store.rows import ScoreRow
from lab.ui import charts


def metric(step: int, **values: object) -> Event:
    return Event("metric", {"step": step, "values": values})


def test_a_step_told_twice_counts_as_told_last() -> None:
    lines = charts.series([metric(1, loss=3.0), metric(2, loss=2.5), metric(2, loss=2.0)])
    assert lines == {"loss": [(1, 3.0), (2, 2.0)]}


def test_what_is_no_number_is_a_gap() -> None:
    lines = charts.series(
        [metric(1, loss=3.0), metric(2, loss=math.nan), metric(3, loss=None), metric(4, loss=1)]
    )
    assert lines["loss"] == [(1, 3.0), (2, None), (3, None), (4, 1.0)]
    figure = charts.loss_chart(lines)
    assert list(figure.data[0].y) == [3.0, None, None, 1.0]
    assert figure.data[0].connectgaps is False


def test_other_events_draw_nothing() -> None:
    assert charts.series([Event("note", {"text": "loss 3"})]) == {}


def test_a_line_keeps_a_thousand_points_with_both_ends() -> None:
    points = [(float(step), float(step)) for step in range(12_345)]
    kept = charts.thin(points)
    assert len(kept) == 1000
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert charts.thin(points[:1000]) == points[:1000]


def test_both_losses_share_an_axis_and_the_learning_rate_has_its_own() -> None:
    figure = charts.loss_chart(
        {
            "loss": [(1, 2.0)],
            "eval_loss": [(1, 2.1)],
            "learning_rate": [(1, 2e-4)],
            "tokens_per_second": [(1, 9.0)],
        }
    )
    assert [(line.name, line.yaxis) for line in figure.data] == [
        ("training loss", "y"), ("evaluation loss", "y"), ("learning rate", "y2"),
    ]  # fmt: skip
    assert figure.layout.yaxis.title.text == "loss (nats a token)"


BARS = [charts.Bar(0, "a", 0.675, 0.52, 0.80, 40), charts.Bar(1, "b", 0.5, 0.35, 0.65, 40)]


def test_bars_have_their_letter_colour_and_interval_with_a_on_top() -> None:
    figure = charts.score_chart(BARS, "Accuracy", higher_is_better=True, as_percent=True)
    bars = figure.data[0]
    assert list(bars.y) == ["B", "A"]  # Plotly draws upwards
    assert list(bars.x) == [0.5, 0.675]
    assert list(bars.marker.color) == [charts.OKABE_ITO[1], charts.OKABE_ITO[0]]
    assert [round(value, 3) for value in bars.error_x.array] == [0.15, 0.125]
    assert [round(value, 3) for value in bars.error_x.arrayminus] == [0.15, 0.155]
    assert figure.layout.title.text == "Accuracy (40 items, 95 %)"


def test_lower_is_better_is_said_where_it_is_so() -> None:
    figure = charts.score_chart(BARS, "Bits per byte", higher_is_better=False)
    assert figure.layout.title.text == "Bits per byte (40 items, 95 %; lower is better)"


def test_a_bar_that_still_grows_has_no_interval() -> None:
    figure = charts.score_chart([charts.Bar(0, "a", 0.5)], "Accuracy", higher_is_better=True)
    assert figure.data[0].error_x.visible is False


def test_only_the_chosen_models_on_the_chosen_data_have_bars() -> None:
    rows = [
        ScoreRow(name, "accuracy", data, 0.5, 0.4, 0.6, 40, "j", 0.0)
        for name in ("a", "b", "c")
        for data in ("lab:mc40", "mine")
    ]
    bars = charts.bars_of(rows, ["c", "a"], "accuracy", "mine")
    assert [(bar.place, bar.model) for bar in bars] == [(1, "a"), (0, "c")]


def test_negative_weights_turn_the_heat_map_two_sided() -> None:
    rows = [charts.HeatRow("A", "a", (1.0, 0.5)), charts.HeatRow("B", "b", (0.0, None))]
    plain = charts.layer_heat_map(rows, "weight").data[0]
    signed = charts.layer_heat_map([charts.HeatRow("A", "a", (1.0, -2.0))], "weight").data[0]
    assert (plain.zmin, plain.zmax) == (0, 1.0)
    assert (signed.zmin, signed.zmax) == (-2.0, 2.0)


def test_tensors_outside_the_layers_stand_apart_from_them() -> None:
    row = charts.HeatRow(
        "A", "a", (0.0, 1.0), before=(("embed", 0.25),), after=(("norm", 0.5), ("head", 0.75))
    )
    other = charts.HeatRow("A mlp", "a, mlp", (1.0, 2.0))
    figure = charts.layer_heat_map([row, other], "density")
    assert [list(cells) for cells in figure.data[0].z] == [
        [0.25, None, 0.0, 1.0, None, 0.5, 0.75],
        [None, None, 1.0, 2.0, None, None, None],
    ]
    assert list(figure.data[0].x) == [-2, -1, 0, 1, 2, 3, 4]  # layer 0 stands at 0
    assert figure.data[0].text[0][0] == "a<br>embed: density 0.25"
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "in", "out"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, -2, 3.5]


def test_a_deep_model_has_few_ticks() -> None:
    figure = charts.layer_heat_map([charts.HeatRow("A", "a", (1.0,) * 80)], "weight")
    assert list(figure.layout.xaxis.tickvals) == [0, 14, 28, 42, 56, 70]


def test_figures_have_no_ground_of_their_own() -> None:
    figure = charts.loss_chart({"loss": [(1, 2.0)]})
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_a_stack_is_drawn_with_its_seam() -> None:
    """SOLAR's of 8 layers and m = 2: layer 5 meets layer 2."""
    origins = [("m", layer) for layer in (*range(6), *range(2, 8))]
    figure = charts.stacked_layers(origins)
    assert [list(line.y) for line in figure.data] == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]
    assert [list(line.x) for line in figure.data] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    (words,) = [note.text for note in figure.layout.annotations]
    assert words == "5 meets 2"
    assert figure.layout.shapes[0].x0 == 5.5


def test_a_stack_of_two_models_has_a_seam_where_one_gives_way_to_the_other() -> None:
    figure = charts.stacked_layers([("a", 0), ("a", 1), ("b", 2), ("b", 3)])
    assert [(line.name, line.showlegend) for line in figure.data] == [("a", True), ("b", True)]
    assert [note.text for note in figure.layout.annotations] == ["1 meets 2"]
    assert not charts.stacked_layers([("a", 0), ("a", 1)]).layout.annotations


def test_every_trial_is_a_point_and_the_best_so_far_a_line_of_steps() -> None:
    lines = {"score": [(1, 2.0), (2, None), (3, 1.5)], "best": [(1, 2.0), (2, 2.0), (3, 1.5)]}
    figure = charts.search_chart(lines, "Bits per byte", higher_is_better=False)
    trials, best = figure.data
    assert (trials.mode, list(trials.y)) == ("markers", [2.0, None, 1.5])
    assert (best.line.shape, list(best.y)) == ("hv", [2.0, 2.0, 1.5])
    assert figure.layout.yaxis.title.text == "bits per byte (lower is better)"
