"""A search is refused before it starts when it can't mean anything, or would see what judges it."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeShelf
from pydantic import ValidationError
from searches import search_of

from lab.core.errors import BadInput, problems_of
from lab.merge.spec import merge_of
from lab.score.tasks import SHIPPED_TEXT, place
from lab.search.check import check
from lab.search.recipe import read_search, write_search
from lab.search.spec import SearchSpec, applied, start_of


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        search_of(**changes)
    return "; ".join(str(problem) for problem in problems_of(caught.value))


@pytest.fixture
def with_texts(bench: Any, tmp_path: Path) -> FakeShelf:
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "The sea is wide."}) + "\n")
    return FakeShelf(bench.root, {"texts": file})


class TestSpec:
    def test_what_moves_has_to_be_a_number_of_the_recipe(self) -> None:
        one = {"low": 0, "high": 1}
        assert "Did you mean 'weight'?" in refused(vary=[{"knob": "wieght", "model": "pirate", **one}])
        assert "'pirat'" in refused(vary=[{"knob": "weight", "model": "pirat", **one}])
        assert "normalize" in refused(vary=[{"knob": "normalize", **one}])
        assert "lambda is one for all" in refused(vary=[{"knob": "lambda", "model": "pirate", **one}])
        assert "goes from 1 to 0" in refused(vary=[{"knob": "lambda", "low": 1, "high": 0}])

    def test_a_shared_number_that_every_model_sets_itself_would_move_nothing(self) -> None:
        assert "set weight for themselves" in refused(vary=[{"knob": "weight", "low": 0, "high": 1}])

    def test_a_range_beyond_what_the_method_takes_is_refused(self) -> None:
        ties = merge_of("ties", [("pirate", 1.0), ("sums", 1.0)], name="mix", base="base")
        assert "density" in refused(recipe=ties, vary=[{"knob": "density", "low": 0.5, "high": 1.5}])

    def test_values_go_where_they_belong(self) -> None:
        ties = merge_of("ties", [("pirate", 1.0), ("sums", 1.0)], name="mix", base="base")
        spec = search_of(
            ties,
            vary=[
                {"knob": "density", "low": 0.1, "high": 1},
                {"knob": "weight", "model": "sums", "low": 0, "high": 1, "points": 2},
            ],
        )
        values = {"density": 0.25, "weight of sums [1]": 0.5, "weight of sums [2]": 0.75}
        best = applied(spec.recipe, spec.vary, values)
        assert best.parameters["density"] == 0.25
        assert best.models[0].parameters["weight"] == 1.0
        assert best.models[1].parameters["weight"] == (0.5, 0.75)

    def test_it_starts_from_the_recipe_within_the_ranges(self) -> None:
        spec = search_of(vary=[{"knob": "weight", "model": "pirate", "low": 0.6, "high": 1}])
        assert start_of(spec.recipe, spec.vary) == {"weight of pirate": 0.6}

    def test_only_a_named_result_is_promised(self) -> None:
        assert search_of().models_made() == ()
        assert search_of(name="found").models_made() == ("found",)
        assert search_of().models_used() == ("base", "pirate", "sums")
        assert search_of().datasets_used() == ("texts",)


class TestCheck:
    def test_a_good_search_is_told_what_it_will_need(self, with_texts: FakeShelf) -> None:
        found = check(search_of(), with_texts)
        assert found.items == 1
        assert found.need.memory_bytes > 1 << 30

    @pytest.mark.parametrize("as_copy", [False, True])
    def test_the_set_that_scores_judge_by_is_refused_unless_allowed(
        self, as_copy: bool, with_texts: FakeShelf, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy.jsonl"
        copy.write_bytes(place(SHIPPED_TEXT, with_texts).read_bytes())
        shelf = FakeShelf(with_texts.root, {"copy": copy})
        data = "copy" if as_copy else SHIPPED_TEXT
        with pytest.raises(BadInput, match="looks better on that set than it is") as caught:
            check(search_of(data=data), shelf)
        assert caught.value.field == "data"
        assert check(search_of(data=data, allow_reference=True), shelf).items == 5

    def test_data_of_the_other_kind_is_refused_at_the_data(self, with_texts: FakeShelf) -> None:
        with pytest.raises(BadInput) as caught:
            check(search_of(metric="accuracy"), with_texts)
        assert caught.value.field == "data"

    def test_models_that_are_no_siblings_are_refused_at_the_recipe(self, with_texts: FakeShelf) -> None:
        recipe = merge_of("linear", [("pirate", 1.0), ("wide", 1.0)], name="mix")
        vary = [{"knob": "weight", "model": "wide", "low": 0, "high": 1}]
        with pytest.raises(BadInput, match="wide has a width") as caught:
            check(search_of(recipe, vary=vary), with_texts)
        assert (caught.value.field or "").startswith("recipe.models")


def test_a_stored_search_is_the_same_search() -> None:
    spec = search_of(name="found")
    assert SearchSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_search_is_written_as_yaml_and_read_back() -> None:
    spec = search_of(name="found", vary=[{"knob": "lambda", "low": 0, "high": 2, "points": 3}])
    again = read_search(write_search(spec))
    assert again.model_copy(update={"recipe": spec.recipe}) == spec
    assert again.recipe == spec.recipe.model_copy(update={"name": "best"})


def test_the_example_in_the_docs_is_a_search(bench: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    spec = read_search(page.split("```yaml\n")[1].split("```")[0])
    assert [one.name for one in spec.vary] == ["weight of pirate", "weight of sums", "density"]
    assert start_of(spec.recipe, spec.vary)["density"] == 0.6
    unwritten = {name for name in SearchSpec.model_fields if name not in page}
    assert unwritten <= {"kind", "name", "limit", "context_tokens", "dtype"}
