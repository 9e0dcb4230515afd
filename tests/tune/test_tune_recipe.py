"""A fine-tune's recipe: what is written is read as the same spec, and what can't be read says where."""

import pytest
from pydantic import ValidationError

from lab.core.errors import BadInput, UnknownName
from lab.core.spec import spec_sha256
from lab.tune.recipe import read_recipe, write_recipe
from lab.tune.spec import TuneSpec

SPEC = TuneSpec(model="SmolLM2", dataset="pirate", name="arr")


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC.model_copy(update={"alpha": 7.25, "epochs": 0.5, "max_steps": 1, "neftune_alpha": 5.0}),
        SPEC.model_copy(update={"learning_rate": 1.23456789e-5, "seed": 2**32 - 1, "full_model": True}),
        SPEC.model_copy(update={"name": "1e3", "dataset": "null", "model": "0x10"}),
    ],
)
def test_a_written_recipe_is_read_as_the_same_spec(spec: TuneSpec) -> None:
    assert read_recipe(write_recipe(spec)) == spec
    assert spec_sha256(read_recipe(write_recipe(spec))) == spec_sha256(spec)


def test_every_setting_is_written_so_that_new_defaults_change_nothing() -> None:
    written = write_recipe(SPEC)
    assert [line.split(":")[0] for line in written.splitlines()] == list(TuneSpec.model_fields)


def test_what_is_left_out_keeps_its_default_and_the_name_may_come_from_elsewhere() -> None:
    spec = read_recipe("model: SmolLM2\ndataset: pirate\nrank: 4", name="out")
    assert (spec.name, spec.rank, spec.dropout) == ("out", 4, 0.0)


def test_a_misspelt_setting_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match=r"learning_rat.*learning_rate"):
        read_recipe("learning_rat: 0.1")


@pytest.mark.parametrize("text", ["", "rank", "- rank: 3", "rank: [", "rank: 1\nrank: 2", "a: &x 1\nb: *x"])
def test_a_text_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="The recipe"):
        read_recipe(text)


@pytest.mark.parametrize(
    "line", ["rank: .nan", "rank: many", "learning_rate: .inf", "kind: merge", "rank: 0"]
)
def test_a_value_that_will_not_do_names_its_field(line: str) -> None:
    with pytest.raises(ValidationError, match=line.split(":", maxsplit=1)[0]):
        read_recipe(f"{line}\nmodel: a\ndataset: b\nname: c")
