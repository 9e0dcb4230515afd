"""The table of models and the card, from worked rows."""

from pathlib import Path

from lab.models.catalog import CatalogEntry
from lab.ui import modelcards, modelview
from lab.ui.lineage import Edge
from tests.ui.ui_rows import NASTY, job, model


def entry(name: str = "m", children: tuple[str, ...] = (), **changes: object) -> CatalogEntry:
    return CatalogEntry(model(name, **changes), Path("/lab/models") / name, "", children)


def card(one: CatalogEntry, **changes: object) -> modelcards.Card:
    fields: dict[str, object] = {
        "made_by": None, "edges": (), "names": frozenset({"m", "a"}), "licence": "MIT", "files": (),
    }  # fmt: skip
    return modelcards.Card(entry=one, **{**fields, **changes})  # type: ignore[arg-type]


class TestCard:
    def test_parents_can_be_opened_and_deleted_ones_are_said_to_be(self) -> None:
        edges = (Edge("a", "m", "base"), Edge("gone", "m", "input", "weight 0.5"))
        html = modelcards.card(card(entry(parents=("a", "gone")), edges=edges))
        assert 'data-id="a"' in html
        assert 'data-id="gone"' not in html
        assert "input, weight 0.5 · deleted" in html

    def test_the_folder_is_shown_only_where_the_reader_may_know_it(self) -> None:
        assert "data-copy" not in modelcards.card(card(entry()))
        assert 'data-copy="/lab/models/m"' in modelcards.card(card(entry(), folder="/lab/models/m"))

    def test_run_again_says_the_new_name(self) -> None:
        assert "Run again as m-2" in modelcards.card(card(entry(), again="m-2"))
        assert "Run again" not in modelcards.card(card(entry()))

    def test_knobs_seed_and_versions_of_the_job_are_told(self) -> None:
        spec = {"kind": "tune", "model": "a", "rank": 16, "seed": 42, "parameters": {"density": 0.5}}
        made = job(spec=spec, state="succeeded", finished=81.0, result={"versions": {"torch": "2.13.0"}})
        html = modelcards.card(card(entry(), made_by=made))
        for words in ("Rank", "Seed", "42", "Density", "0.5", "1 min 20 s", "torch 2.13.0"):
            assert words in html

    def test_what_comes_from_outside_is_escaped(self) -> None:
        one = entry(words=NASTY, facts={"origin": NASTY})
        html = modelcards.card(card(one, licence=NASTY, edges=(Edge(NASTY, "m", NASTY),), folder=NASTY))
        assert "<img" not in html
        assert "<img" not in modelcards.table([one], [], 0.0)


class TestTable:
    def test_the_chosen_row_is_marked_for_eyes_and_for_readers(self) -> None:
        html = modelcards.table([entry("a"), entry("b")], [], 0.0, "b")
        assert html.count('aria-current="true"') == 1
        assert 'lab-chosen" data-model="b"' in html

    def test_of_many_parents_the_first_are_named(self) -> None:
        html = modelcards.table([entry(parents=("a", "b", "c", "d", "e"))], [], 0.0)
        assert "a, b, c and 2 more" in html


class TestLicences:
    def test_a_childs_licence_is_its_parents(self) -> None:
        rows = [model("base", facts={"licence": "Apache-2.0"}), model("lora", parents=("base",), facts={})]
        assert modelview.licences(rows[0], rows) == "Apache-2.0"
        assert modelview.licences(rows[1], rows) == "Apache-2.0 (from base)"

    def test_two_licences_are_both_carried_and_a_deleted_parent_is_unknown(self) -> None:
        rows = [
            model("a", facts={"licence": "MIT"}),
            model("b", facts={"licence": "Gemma"}),
            model("both", parents=("a", "b", "c"), facts={}),
        ]
        words = modelview.licences(rows[2], rows)
        assert words == "MIT (from a); Gemma (from b); unknown (from c, deleted)"
