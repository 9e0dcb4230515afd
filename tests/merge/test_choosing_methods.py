"""RAM, NearSwap and Arcee Fusion, which choose among changes, on numbers to check by hand."""

from math import log
from typing import Any

import pytest
import torch
from merge_properties import chunks_give_what_the_whole_gives, some_rows
from torch import Tensor, tensor

from lab.merge.methods.arcee_fusion import arcee_fusion
from lab.merge.methods.nearswap import nearswap
from lab.merge.methods.ram import ram, ramplus_tl
from lab.merge.registry import merge_methods


def same(actual: Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("ram", {"epsilon": 0.5}),
        ("ramplus_tl", {"epsilon": 0.7, "r": 1.0, "alpha": 2.0}),
        ("nearswap", {"t": 1.0}),
    ],
)
def test_chunks_and_whole_agree_with_other_knobs_too(name: str, knobs: dict[str, Any]):
    method = merge_methods[name]
    for count in range(1, min(method.models[1], 3) + 1):
        chunks_give_what_the_whole_gives(method, count, **knobs)


def test_ram_keeps_lone_changes_whole_and_averages_shared_ones():
    same(ram(tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]]), torch.ones(2)), [2.0, 4.0, 2.0])


def test_ram_s_epsilon_is_in_units_of_the_weights_as_in_mergekit():
    deltas = tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 0.5]])
    same(ram(deltas, torch.ones(2), epsilon=0.5), [2.0, 4.0, 2.0])
    same(ram(deltas * 1e-6, torch.ones(2)), [0.0, 0.0, 0.0])  # all below the default of 1e-5
    assert ram(deltas * 1e-6, torch.ones(2), epsilon=0.0).tolist() == pytest.approx([2e-6, 4e-6, 1.25e-6])


def test_ramplus_enlarges_what_a_model_changed_alone():
    deltas = tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]])
    # Each changed one element alone and shares one: rho = 1, of which alpha = 0.2 counts: times 1.02.
    same(ramplus_tl(deltas, torch.ones(2)), [2.0, 4.08, 2.04])
    same(ramplus_tl(deltas, torch.ones(2), r=1.0, alpha=3.0), [2.0, 8.0, 4.0])
    same(ramplus_tl(tensor([[1.0, 2.0]]), torch.ones(1)), [1.0, 2.0])  # one model shares nothing


def test_nearswap_moves_every_number_by_t_at_most():
    same(nearswap(tensor([[0.5, -2.0, 0.05, 0.0]]), torch.ones(1), t=0.1), [0.1, -0.1, 0.05, 0.0])


def test_nearswap_is_mergekit_s_formula_without_its_floor():
    """w x + (1 - w) b with w = clamp(t / max(|x - b|, floor), 0, 1): the floor halves what is half of it."""
    base, other, t = 0.25, tensor([0.25 + 2**-20]), 2**-21

    def formula(floor: float) -> Tensor:
        weight = (t / (other - base).abs().clamp_min(floor)).clamp(0, 1)
        return weight * (other - base)

    ours = nearswap(other[None] - base, torch.ones(1), t=t)
    torch.testing.assert_close(ours, formula(0.0))
    assert float(formula(1e-6) / formula(0.0)) == pytest.approx(2**-20 / 1e-6, rel=1e-3)


def test_arcee_fusion_takes_only_what_stands_out():
    base = torch.zeros(1, 8)
    # One row: importance is the change times one number. Quartiles of 1 to 7 and 30, at places 1, 3 and 5:
    # 2, 4 and 6. The bound is 4 + 1.5 * 4 = 10, so that only 30 passes.
    other = tensor([[1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 7.0, -30.0]]) * 0.1
    same(arcee_fusion(torch.stack([base, other]), torch.ones(2)), [[0.0] * 7 + [-3.0]])


def test_arcee_fusion_weighs_a_row_by_its_divergence():
    from lab.merge.methods.arcee_fusion import _divergence

    # softmax of (log 3, 0) is 3/4 and 1/4, against 1/2 and 1/2.
    rows = tensor([[[0.0, 0.0]], [[log(3), 0.0]]])
    same(_divergence(rows), [0.75 * log(1.5) + 0.25 * log(0.5)])


def test_arcee_fusion_of_equal_models_is_that_model_and_repeats_exactly():
    rows = some_rows(2, (30, 40))
    same(arcee_fusion(rows[[0, 0]], torch.ones(2)), rows[0].tolist())
    assert torch.equal(arcee_fusion(rows, torch.ones(2)), arcee_fusion(rows, torch.ones(2)))
    changed = arcee_fusion(rows, torch.ones(2)) != rows[0]
    assert 0 < int(changed.sum()) < 300
