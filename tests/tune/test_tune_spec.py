"""What a fine-tune's form takes, and what it refuses, with the field at fault."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from lab.core.errors import problems_of
from lab.tune.registry import tune_methods
from lab.tune.spec import TuneSpec

LEAST = {"model": "base", "dataset": "pirate", "name": "mate"}


def refused_field(**values: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as refusal:
        TuneSpec(**{**LEAST, **values})
    [problem] = problems_of(refusal.value)
    return problem.field, problem.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("learning_rate", value) for value in (0, -1e-4, 1, 3.0, 0.5, math.nan, math.inf, "fast")),
        *(("rank", value) for value in (0, -1, 10**9, 1.5, math.nan, "big")),
        *(("alpha", value) for value in (0, -1, math.nan, math.inf)),
        *(("dropout", value) for value in (-0.1, 1.0, math.nan)),
        *(("neftune_alpha", value) for value in (-1, math.nan, 1e9)),
        *(("batch", value) for value in (0, -1, 10**9)),
        *(("micro_batch", value) for value in (0, -1)),
        *(("max_length", value) for value in (0, -5, 10**9)),
        *(("epochs", value) for value in (0, -1, math.nan, math.inf)),
        *(("max_steps", value) for value in (0, -1, 10**9)),
        *(("warmup_ratio", value) for value in (-0.1, 1.0, math.nan)),
        *(("weight_decay", value) for value in (-1, math.nan)),
        *(("grad_clip", value) for value in (-1, math.nan)),
        *(("held_out", value) for value in (-1, 10**9)),
        *(("seed", value) for value in (-1, 1 << 32)),
        *(("name", value) for value in ("", "../up", "a b", "x" * 65, "..")),
        *(("model", value) for value in ("", None)),
        ("scheduler", "zigzag"),
        ("densty", 0.5),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_names_its_field(field: str, value: Any) -> None:
    assert refused_field(**{field: value})[0] == field


def test_a_learning_rate_that_would_destroy_the_model_gets_advice() -> None:
    assert "try 0.0002" in refused_field(learning_rate=0.5)[1]


def test_an_unknown_method_suggests_the_nearest() -> None:
    field, message = refused_field(method="qlra")
    assert field == "method"
    assert "Did you mean 'qlora'?" in message


def test_a_micro_batch_has_to_divide_the_batch() -> None:
    assert "Choose a micro-batch that divides 16" in refused_field(batch=16, micro_batch=3)[1]


def test_adapter_and_full_model_need_two_names() -> None:
    assert "both" in refused_field(full_model=True, full_model_name="mate")[1]


def test_alpha_follows_the_rank_until_it_is_set() -> None:
    assert TuneSpec(**LEAST, rank=8).lora_alpha == 16
    assert TuneSpec(**LEAST, rank=8, alpha=4).lora_alpha == 4


def test_the_models_made_are_the_adapter_and_where_asked_for_the_full_model() -> None:
    assert TuneSpec(**LEAST).models_made() == ("mate",)
    assert TuneSpec(**LEAST, full_model=True).models_made() == ("mate", "mate-full")
    longest = {**LEAST, "name": "x" * 64}
    assert len(TuneSpec(**longest, full_model=True).full_name) == 64


def test_every_field_explains_itself() -> None:
    for name, field in TuneSpec.model_fields.items():
        assert name == "kind" or field.description, name


def test_lora_and_qlora_are_known_with_their_papers() -> None:
    assert list(tune_methods) == ["lora", "qlora"]
    assert all(method.source and method.words for method in tune_methods.values())
