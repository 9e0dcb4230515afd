"""A fine-tune's recipe: what is written is read as the same spec, and what can't be read says where."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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


@given(
    name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name.strip(".")),
    model=st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable()),
    learning_rate=st.floats(1e-12, 0.1),
    alpha=st.none() | st.floats(1e-6, 8192),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_a_spec_holds_survives_the_text(name: str, model: str, **settings: Any) -> None:
    spec = TuneSpec(model=model, dataset="null", name=name, **settings)
    assert read_recipe(write_recipe(spec)) == spec


def test_the_recipe_that_the_jobs_page_shows_is_read_too() -> None:
    shown = json.dumps(SPEC.model_dump(mode="json"), indent=2, ensure_ascii=False)
    assert read_recipe(shown) == SPEC


def test_every_setting_is_written_so_that_new_defaults_change_nothing() -> None:
    written = write_recipe(SPEC)
    assert [line.split(":")[0] for line in written.splitlines()] == list(TuneSpec.model_fields)


def test_what_is_left_out_keeps_its_default_and_the_name_may_come_from_elsewhere() -> None:
    spec = read_recipe("model: SmolLM2\ndataset: pirate\nrank: 4", name="out")
    assert (spec.name, spec.rank, spec.dropout) == ("out", 4, 0.0)


def test_a_misspelt_setting_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match=r"learning_rat.*Did you mean 'learning_rate'") as refused:
        read_recipe("learning_rat: 0.1")
    assert refused.value.field == "learning_rat"


@pytest.mark.parametrize("field", ["model", "dataset", "name"])
def test_a_setting_that_is_missing_is_asked_for(field: str) -> None:
    text = "".join(f"{one}: x\n" for one in ("model", "dataset", "name") if one != field)
    for missing in (text, f"{text}{field}: null\n"):
        with pytest.raises(BadInput, match=f"The recipe has no {field}.*Add a line `{field}: ") as refused:
            read_recipe(missing)
        assert refused.value.field == field


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
