"""Families worked by hand: who came from whom, with what role, and where each stands in the picture."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ui import lineage, lineagechart
from lab.ui.lineage import Edge, Node
from tests.ui.ui_rows import NASTY, model

TIES = {
    "kind": "merge",
    "base_model": "base",
    "models": [
        {"model": "pirate", "parameters": {"weight": 1.0}},
        {"model": "sums", "parameters": {"weight": 0.25}},
    ],
}
STACKED = {
    "slices": [
        {"sources": [{"model": "base", "layer_range": [0, 18]}]},
        {"sources": [{"model": "base", "layer_range": [12, 30]}]},
    ]
}


def edges(*pairs: str) -> list[Edge]:
    """Read "a>b c>b" as steps of descent."""
    return [Edge(*pair.split(">"), role="input") for text in pairs for pair in text.split()]


def named(*names: str) -> dict[str, Node]:
    return {name: Node(name, "base") for name in names}


class TestRoles:
    def test_a_merge_has_a_base_and_inputs_with_their_weights(self) -> None:
        found = lineage.edges_into(model("both", parents=("base", "pirate", "sums")), TIES)
        assert [(edge.parent, edge.words) for edge in found] == [
            ("base", "base"), ("pirate", "input, weight 1"), ("sums", "input, weight 0.25"),
        ]  # fmt: skip

    def test_a_stacked_model_says_which_layers_it_took(self) -> None:
        found = lineage.edges_into(model("tall", parents=("base",)), STACKED)
        assert [edge.words for edge in found] == ["input, layers 0 to 18, layers 12 to 30"]

    def test_a_fine_tune_has_a_base_and_data_that_may_share_a_models_name(self) -> None:
        spec = {"kind": "tune", "model": "base", "dataset": "pirate", "name": "pirate"}
        found = lineage.edges_into(model("pirate", parents=("base",)), spec, ["pirate"])
        assert [(edge.parent, edge.role) for edge in found] == [("base", "base"), ("data:pirate", "data")]

    def test_without_a_recipe_a_parent_is_a_parent(self) -> None:
        assert lineage.edges_into(model("b", parents=("a",)), {}) == [Edge("a", "b", "parent")]

    def test_weights_by_layer_are_not_spelt_out(self) -> None:
        spec = {"models": [{"model": "a", "parameters": {"weight": [0.1, 0.9]}}]}
        assert lineage.edges_into(model("b", parents=("a",)), spec)[0].detail == "weights by layer"


class TestFamily:
    def test_it_is_the_ancestors_and_descendants_of_the_chosen(self) -> None:
        every = edges("base>pirate base>sums pirate>both sums>both both>child stranger>other")
        one = lineage.family(
            "both", named("base", "pirate", "sums", "both", "child", "stranger", "other"), every
        )
        assert {node.name for node in one.nodes} == {"base", "pirate", "sums", "both", "child"}
        cousin = lineage.family("pirate", named("base", "pirate", "sums", "both", "child"), every)
        assert "sums" not in {node.name for node in cousin.nodes}

    def test_a_deleted_parent_is_shown_as_gone(self) -> None:
        one = lineage.family("b", named("b"), edges("a>b"))
        assert [(node.name, node.is_gone) for node in one.nodes] == [("a", True), ("b", False)]
        assert lineagechart.draw(one).data[1].marker.symbol == ("circle-open", "circle")

    def test_a_lone_model_is_one_dot(self) -> None:
        one = lineage.family("a", named("a"), [])
        assert (len(one.nodes), one.edges) == (1, ())
        assert lineagechart.draw(one).layout.height == lineagechart.LINE_HEIGHT + 8

    def test_of_sixty_children_the_first_are_drawn_and_the_rest_counted(self) -> None:
        names = [f"c{number:02d}" for number in range(60)]
        one = lineage.family("a", named("a", *names), edges(*[f"a>{name}" for name in names]))
        assert len(one.nodes) == lineage.MOST_SHOWN
        assert one.more_below == 60 - lineage.MOST_SHOWN + 1
        texts = [text for trace in lineagechart.draw(one).data for text in trace.text or ()]
        assert f"and {one.more_below} more further down that were made from these" in texts

    def test_a_circle_ends(self) -> None:
        one = lineage.family("a", named("a", "b"), edges("a>b b>a"))
        assert len(lineage.layout(one)) == 2


class TestPlaces:
    def test_parents_stand_above_and_left_of_their_children_each_on_a_line_of_its_own(self) -> None:
        names = ("base", "pirate", "sums", "both")
        one = lineage.family("both", named(*names), edges("base>pirate base>sums pirate>both sums>both"))
        places = lineage.layout(one)
        assert {name: (place.line, place.lane) for name, place in places.items()} == {
            "base": (0, 0), "pirate": (1, 1), "sums": (2, 2), "both": (3, 3),
        }  # fmt: skip

    def test_a_dataset_stands_just_above_its_first_model(self) -> None:
        data = Edge(lineage.data_key("rows"), "tuned", lineage.DATA)
        nodes = {**named("base", "tuned"), "data:rows": Node("data:rows", lineage.DATA)}
        places = lineage.layout(lineage.family("tuned", nodes, [*edges("base>tuned"), data]))
        assert sorted(places, key=lambda name: places[name].line) == ["base", "data:rows", "tuned"]

    @given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40))
    @settings(max_examples=60, deadline=None)
    def test_no_line_runs_through_a_node_that_it_has_no_part_in(self, pairs: list[tuple[int, int]]) -> None:
        every = [Edge(f"n{min(pair)}", f"n{max(pair)}", "input") for pair in pairs if pair[0] != pair[1]]
        nodes = named(*[f"n{number}" for number in range(12)])
        one = lineage.family("n5", nodes, dict.fromkeys(every))
        places = lineage.layout(one)
        for edge in one.edges:
            parent, child = places[edge.parent], places[edge.child]
            assert parent.line < child.line
            assert parent.lane < child.lane
            passed = [
                name
                for name, place in places.items()
                if place.lane == parent.lane and parent.line < place.line <= child.line
            ]
            assert passed == []


class TestPicture:
    def test_a_long_name_keeps_its_start_and_its_end(self) -> None:
        assert lineagechart.shorten("short") == "short"
        short = lineagechart.shorten("experiment-07-learning-rate-sweep-on-sums-v2", 30)
        assert (len(short), short[:10], short[-7:]) == (30, "experiment", "sums-v2")

    def test_a_click_tells_the_model_and_hover_its_facts(self) -> None:
        row = model("m", kind="merge", words="ties merge of a and b", facts={"parameters": 134_515_008})
        one = lineage.family("m", {"m": lineage.model_node(row, ["accuracy 0.725"])}, [])
        dots = lineagechart.draw(one).data[0]
        assert dots.customdata == ("m",)
        assert dots.hovertext[0].split("<br>") == [
            "<b>m</b>", "ties merge of a and b", "134.5 M parameters · 100 bytes", "accuracy 0.725",
        ]  # fmt: skip

    def test_words_from_outside_are_no_markup(self) -> None:
        one = lineage.family("m", {"m": lineage.model_node(model("m", words=NASTY))}, [])
        assert "<img" not in lineagechart.draw(one).data[0].hovertext[0]
