"""A comparison is refused before it starts when it can't mean anything."""

from pathlib import Path

import pytest
from fakes import FakeShelf
from pydantic import ValidationError
from tiny_models import Bench, write_adapter, write_model

from lab.compare.check import check
from lab.compare.spec import CompareSpec, Turn
from lab.core.errors import BadInput, problems_of
from lab.core.spec import canonical_json
from lab.merge.spec import merge_of
from lab.models.sampling import Sampling


def spec(**changes: object) -> CompareSpec:
    return CompareSpec.model_validate({"models": ("base", "pirate"), "prompt": "Hello?", **changes})


class TestSpec:
    def test_every_column_goes_on_with_its_own_answers(self) -> None:
        turn = Turn(prompt="Hi", answers=("hello", "arr"))
        asked = spec(earlier=(turn,), system="Be kind.")
        assert asked.messages(1) == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "arr"},
            {"role": "user", "content": "Hello?"},
        ]
        assert asked.messages(0)[2]["content"] == "hello"

    def test_without_system_and_history_there_is_one_message(self) -> None:
        assert spec().messages(0) == [{"role": "user", "content": "Hello?"}]

    def test_the_sampling_is_told_apart(self) -> None:
        assert spec(seed=7, temperature=0).sampling == Sampling(seed=7, temperature=0)

    def test_the_title_is_short(self) -> None:
        assert spec(prompt="word " * 100).title.startswith("ask base, pirate: word word")
        assert len(spec(prompt="word " * 100).title) < 90

    def test_a_stored_spec_repeats_exactly(self) -> None:
        asked = spec(earlier=(Turn(prompt="a", answers=("b", "c")),))
        assert CompareSpec.model_validate_json(canonical_json(asked)) == asked

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"prompt": "  \n"}, "prompt", "blank"),
            ({"prompt": ""}, "prompt", "at least 1"),
            ({"models": ()}, "models", "at least 1"),
            ({"models": tuple("abcde")}, "models", "These are 5 columns, a live merge included"),
            ({"models": ("a", "a")}, "models", "more than once: a"),
            ({"earlier": ({"prompt": "x", "answers": ("y",)},)}, "", "1 answers for 2 models"),
            ({"temperature": float("nan")}, "temperature", "finite"),
            ({"temperature": "inf"}, "temperature", "finite"),
            ({"max_new_tokens": 0}, "max_new_tokens", "greater than or equal to 1"),
            ({"seed": -1}, "seed", "greater than or equal to 0"),
            ({"colour": "red"}, "colour", "not permitted"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_field(
        self, changes: dict[str, object], field: str, message: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            spec(**changes)
        [problem] = problems_of(caught.value)
        assert problem.field == field
        assert message in problem.message


class TestCheck:
    def test_models_of_the_bench_pass(self, shelf: FakeShelf) -> None:
        check(spec(models=("base", "pirate", "sums", "adapter")), shelf)

    def test_a_model_that_is_not_there_is_refused(self, shelf: FakeShelf) -> None:
        with pytest.raises(BadInput, match="'gone'") as caught:
            check(spec(models=("base", "gone")), shelf)
        assert caught.value.field == "models"

    def test_a_broken_model_is_refused_naming_the_file(self, tmp_path: Path, bench: Bench) -> None:
        file = write_model(tmp_path / "broken") / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-50])
        with pytest.raises(BadInput, match=r"model\.safetensors.*cut off"):
            check(spec(models=("broken",)), FakeShelf(tmp_path))

    def test_an_adapter_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        write_model(tmp_path / "base")
        from tiny_models import Shape

        write_adapter(tmp_path / "deep", base="base", shape=Shape(layers=3))
        with pytest.raises(BadInput, match="which base doesn't have"):
            check(spec(models=("deep",)), FakeShelf(tmp_path))

    def test_a_model_too_large_for_the_machine_is_refused_with_numbers(self, bench: Bench) -> None:
        with pytest.raises(BadInput, match="this machine has") as caught:
            check(spec(), FakeShelf(bench.root, memory=1000))
        assert caught.value.field == "models"


class TestRecipes:
    def test_a_recipe_is_one_of_the_columns(self) -> None:
        recipe = merge_of("linear", [("pirate", 1.0), ("sums", 1.0)], name="mix")
        asked = spec(models=("base", "mix"), recipes=(recipe,))
        assert asked.recipe("mix") == recipe
        assert asked.models_used() == ("base", "pirate", "sums")
        assert asked.models_made() == ()
        with pytest.raises(ValidationError, match="among the models"):
            spec(models=("base", "other"), recipes=(recipe,))

    def test_models_that_are_no_siblings_are_refused_in_words_at_the_recipe(self, shelf: FakeShelf) -> None:
        recipe = merge_of("linear", [("pirate", 1.0), ("wide", 1.0)], name="mix")
        with pytest.raises(BadInput, match="wide has a width of 128, pirate one of 64") as caught:
            check(spec(models=("base", "mix"), recipes=(recipe,)), shelf)
        assert caught.value.field == "recipes.0.models.1.model"

    def test_the_siblings_memory_is_counted_in_the_need(self, shelf: FakeShelf) -> None:
        plain = check(spec(models=("base",)), shelf)
        recipe = merge_of("linear", [("pirate", 1.0), ("sums", 1.0)], name="mix")
        live = check(spec(models=("base", "mix"), recipes=(recipe,)), shelf)
        held = sum(file.stat().st_size for name in ("pirate", "sums") for file in _weights(shelf, name))
        assert live.need.memory_bytes - plain.need.memory_bytes == pytest.approx(held, rel=0.05)


def _weights(shelf: FakeShelf, name: str) -> list[Path]:
    return list(shelf.model(name).glob("*.safetensors"))
