"""The numbers of a run, on worked examples."""

from typing import Any

import pytest

from lab.models.config import ModelConfig
from lab.tune.plan import (
    Weight,
    epochs_of,
    fit_memory,
    length_limit,
    make_plan,
    memory_bytes,
    plan_in_words,
    smaller_plan,
    steps_of,
)
from lab.tune.registry import tune_methods
from lab.tune.spec import TuneSpec

SMOL = Weight(
    ModelConfig(
        "LlamaForCausalLM", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, tied=True, quantisation=""
    ),
    134_515_008,
    2,
)
LORA, QLORA = tune_methods["lora"], tune_methods["qlora"]


def spec(**values: Any) -> TuneSpec:
    return TuneSpec(**{"model": "base", "dataset": "pirate", "name": "mate", **values})


@pytest.mark.parametrize(("rows", "epochs"), [(100, 3), (1999, 3), (2000, 2), (19_999, 2), (20_000, 1)])
def test_few_rows_are_seen_more_often(rows: int, epochs: int) -> None:
    assert epochs_of(spec(), rows) == epochs


def test_steps_are_rows_by_batch_by_epochs_rounded_up() -> None:
    assert steps_of(spec(batch=16, epochs=2), 100) == (14, 7)
    assert steps_of(spec(batch=16, epochs=0.5), 100) == (4, 7)
    assert steps_of(spec(batch=16, max_steps=5), 100) == (5, 7)


def test_the_length_is_what_99_rows_of_100_need() -> None:
    assert length_limit(spec(), [10] * 99 + [5000], 8192) == 10
    assert length_limit(spec(), [10] * 90 + [5000] * 10, 8192) == 2048
    assert length_limit(spec(), [5000], 512) == 512
    assert length_limit(spec(max_length=100), [5000], 512) == 100


def test_warm_up_and_evaluations_follow_the_steps() -> None:
    plan = make_plan(spec(batch=10, epochs=4), 100, 10, 64, (5, False))
    assert (plan.steps, plan.steps_per_epoch) == (40, 10)
    assert plan.warmup_steps == 2
    assert plan.eval_every == 3  # four times in ten steps, rounded up
    assert make_plan(spec(batch=1, epochs=100), 100, 0, 64, (1, False)).warmup_steps == 100
    assert make_plan(spec(warmup_ratio=0), 100, 0, 64, (1, False)).warmup_steps == 0


def test_the_curve_has_at_most_a_thousand_points() -> None:
    plan = make_plan(spec(max_steps=4500), 100, 0, 64, (1, False))
    assert plan.log_every == 5


def test_the_trained_weights_of_smollm2_are_those_that_peft_counts() -> None:
    assert SMOL.lora(16) == 4_884_480
    assert SMOL.lora(8) == 2_442_240
    assert SMOL.linear == 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)


def test_the_memory_estimate_is_near_what_was_measured() -> None:
    """Peaks measured with 4 x 256 tokens: bf16 2,950 MB, with checkpointing 2,160, NF4 and that 2,265."""
    mega = 10**6
    assert memory_bytes(SMOL, LORA, 16, 1024) == pytest.approx(2950 * mega, rel=0.25)
    assert memory_bytes(SMOL, LORA, 16, 1024, checkpointing=True) == pytest.approx(2160 * mega, rel=0.25)
    assert memory_bytes(SMOL, QLORA, 16, 1024, checkpointing=True) == pytest.approx(2265 * mega, rel=0.25)


def test_the_largest_micro_batch_that_fits_is_chosen_before_activations_are_computed_twice() -> None:
    def fit(free: int, **values: Any) -> tuple[int, bool]:
        return fit_memory(spec(**values), SMOL, LORA, 512, free)

    assert fit(64 << 30) == (8, False)
    assert fit(5 << 30) == (2, False)
    assert fit(64 << 30, batch=6) == (6, False)
    assert fit(64 << 30, micro_batch=2) == (2, False)
    assert fit(2 << 30) == (1, True)
    assert fit(1 << 20) == (1, True)


def test_where_the_memory_ran_out_half_the_rows_are_taken_at_once_and_a_step_learns_from_as_many() -> None:
    plan = make_plan(spec(batch=12), 100, 10, 512, (6, False))
    smaller = smaller_plan(plan, 12)
    assert smaller is not None
    assert (smaller.micro_batch, smaller.is_smaller, smaller.steps) == (3, True, plan.steps)
    assert plan_in_words(smaller, 12) == "3 rows at once, gathered 4 times to the batch of 12"
    single = smaller_plan(make_plan(spec(batch=7), 100, 10, 512, (7, False)), 7)
    assert single is not None
    assert single.micro_batch == 1  # 3 does not divide 7
    twice = smaller_plan(single, 7)
    assert twice is not None
    assert plan_in_words(twice, 7) == (
        "1 row at once, gathered 7 times to the batch of 7, activations computed twice"
    )
    assert smaller_plan(twice, 7) is None
