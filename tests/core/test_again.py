"""Recipes run again: the same but for the names."""

import pytest

from lab.core import again
from lab.core.errors import BadInput
from lab.jobs import parse_spec
from lab.merge.spec import merge_of
from lab.tune.spec import TuneSpec


def tune(**changes: object) -> dict[str, object]:
    spec = TuneSpec.model_validate({"model": "base", "dataset": "pirate", "name": "pirate", **changes})
    return spec.model_dump(mode="json")


def test_only_the_name_changes() -> None:
    old = tune(seed=7)
    new = again.repeated(old, {"base", "pirate"}, parse_spec).model_dump(mode="json")
    assert new == {**old, "name": "pirate-2"}


def test_a_dataset_keeps_its_name_though_the_model_has_the_same() -> None:
    assert again.repeated(tune(), {"pirate"}, parse_spec).datasets_used() == ("pirate",)


def test_the_full_model_gets_a_free_name_too() -> None:
    old = tune(full_model=True, full_model_name="arr")
    assert again.repeated(old, {"pirate", "pirate-2", "arr"}, parse_spec).models_made() == (
        "pirate-3",
        "arr-2",
    )


def test_a_name_of_64_characters_still_gets_a_number() -> None:
    old = tune(name="n" * 64)
    (name,) = again.repeated(old, {"n" * 64, "n" * 60}, parse_spec).models_made()
    assert name == "n" * 60 + "-2"


def test_a_merge_keeps_its_inputs() -> None:
    old = merge_of("linear", [("a", 1.0), ("b", 0.5)], name="both")
    new = again.repeated(old.model_dump(mode="json"), {"a", "b", "both"}, parse_spec)
    assert new.models_used() == old.models_used()
    assert new.models_made() == ("both-2",)


def test_a_recipe_of_another_release_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="can't be read"):
        again.repeated({"kind": "tune", "warp": 9}, set(), parse_spec)
    assert again.models_made({"kind": "tune", "warp": 9}, parse_spec) == ()
