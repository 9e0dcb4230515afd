"""Every registered method: what must hold for all, and worked numbers for each of the six."""

from math import pi, sin, sqrt

import pytest
import torch
from merge_properties import check_everything, chunks_give_what_the_whole_gives, counts
from torch import Tensor, tensor

from lab.merge.methods.linear import linear
from lab.merge.methods.passthrough import passthrough
from lab.merge.methods.sce import sce
from lab.merge.methods.slerp import slerp
from lab.merge.methods.task_arithmetic import task_arithmetic
from lab.merge.methods.ties import ties
from lab.merge.registry import merge_methods

CHANGED_KNOBS = [
    ("linear", {"normalize": False}),
    ("passthrough", {"scale": 0.5}),
    ("sce", {"select_topk": 0.3}),
    ("sce", {"select_topk": 0.0}),
    ("slerp", {"t": 0.0}),
    ("slerp", {"t": 0.8}),
    ("task_arithmetic", {"normalize": True, "lambda_": 0.3}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.0}),
    ("ties", {"density": 0.5, "normalize": False, "lambda_": 2.0}),
    ("ties", {"density": 0.3, "rescale": True}),
]


def same(actual: Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(merge_methods))
def test_a_method_keeps_what_every_method_promises(name: str):
    check_everything(merge_methods[name])


@pytest.mark.parametrize("name", list(merge_methods))
def test_a_method_says_where_it_is_from_and_when_to_use_it(name: str):
    method = merge_methods[name]
    assert method.source
    assert method.use.endswith(".")
    assert all(info.description for info in method.parameters.values())


@pytest.mark.parametrize(("name", "knobs"), CHANGED_KNOBS)
def test_chunks_and_whole_agree_with_other_knobs_too(name: str, knobs: dict):
    for count in counts(merge_methods[name]):
        chunks_give_what_the_whole_gives(merge_methods[name], count, **knobs)


def test_linear_is_the_weighted_average():
    rows = tensor([[1.0, 2.0], [5.0, -2.0]])
    same(linear(rows, tensor([3.0, 1.0])), [2.0, 1.0])
    same(linear(rows, tensor([3.0, 1.0]), normalize=False), [8.0, 4.0])
    same(linear(rows, tensor([2.0, -1.0])), [-3.0, 6.0])


def test_linear_refuses_weights_that_sum_to_zero_only_where_it_divides():
    rows = tensor([[1.0, 2.0], [5.0, -2.0]])
    with pytest.raises(ValueError, match="sum to zero"):
        linear(rows, tensor([0.5, -0.5]))
    same(linear(rows, tensor([0.5, -0.5]), normalize=False), [-2.0, 2.0])


def test_slerp_goes_along_the_arc_and_keeps_the_lengths_out_of_it():
    # a and b at a right angle: half way is sin(45)/sin(90) = sqrt(1/2) of each.
    rows = tensor([[2.0, 0.0], [0.0, 1.0]])
    same(slerp(rows, tensor([1.0, 1.0]), t=0.5), [2 * sqrt(0.5), sqrt(0.5)])
    # A third of the way: sin(60) of a, sin(30) of b.
    same(slerp(rows, tensor([1.0, 1.0]), t=1 / 3), [2 * sin(pi / 3), 0.5])
    same(slerp(rows, tensor([1.0, 1.0]), t=0.0), [2.0, 0.0])
    same(slerp(rows, tensor([1.0, 1.0]), t=1.0), [0.0, 1.0])


def test_slerp_of_parallel_tensors_is_the_line_at_any_scale():
    for scale in (1.0, 1e-12):
        rows = tensor([[1.0, 2.0], [3.0, 6.0]]) * scale
        torch.testing.assert_close(
            slerp(rows, tensor([1.0, 1.0]), t=0.25), tensor([1.5, 3.0]) * scale, rtol=1e-5, atol=0
        )
    same(slerp(tensor([[0.0, 0.0], [4.0, 2.0]]), tensor([1.0, 1.0]), t=0.5), [2.0, 1.0])


def test_slerp_of_tiny_tensors_still_goes_along_the_arc():
    rows = tensor([[2e-10, 0.0], [0.0, 1e-10]])
    expected = tensor([2e-10 * sqrt(0.5), 1e-10 * sqrt(0.5)])
    torch.testing.assert_close(slerp(rows, tensor([1.0, 1.0]), t=0.5), expected, rtol=1e-5, atol=0)


def test_task_arithmetic_adds_up_and_takes_away():
    deltas = tensor([[1.0, 0.0, 2.0], [0.0, 4.0, 2.0]])
    same(task_arithmetic(deltas, tensor([1.0, 0.5])), [1.0, 2.0, 3.0])
    same(task_arithmetic(deltas, tensor([1.0, -1.0])), [1.0, -4.0, 0.0])
    same(task_arithmetic(deltas, tensor([1.0, 3.0]), normalize=True, lambda_=2.0), [0.5, 6.0, 4.0])


def test_task_arithmetic_refuses_to_divide_by_zero():
    with pytest.raises(ValueError, match="sum to zero"):
        task_arithmetic(torch.ones(2, 3), tensor([1.0, -1.0]), normalize=True)


def test_ties_trims_elects_and_averages_what_agrees():
    # Density 0.5 of 4 keeps two: [4, 0, 0, -3] and [-2, 0, 5, 0] and [3, 0, 0, -1].
    deltas = tensor([[4.0, 1.0, 2.0, -3.0], [-2.0, 1.0, 5.0, 0.5], [3.0, 0.5, 0.2, -1.0]])
    # Signs of the sums 5, 0, 5, -4: the second model loses in the first place; nobody is in the second.
    same(ties(deltas, tensor([1.0, 1.0, 1.0]), density=0.5), [3.5, 0.0, 5.0, -2.0])
    same(ties(deltas, tensor([1.0, 1.0, 1.0]), density=0.5, normalize=False), [7.0, 0.0, 5.0, -4.0])
    same(ties(deltas, tensor([1.0, 1.0, 1.0]), density=0.5, lambda_=0.5), [1.75, 0.0, 2.5, -1.0])


def test_ties_elects_on_weighted_deltas_and_divides_by_the_agreeing_weights():
    deltas = tensor([[1.0, 2.0], [-2.0, 4.0]])
    # Weighted: [3, 6] and [-2, 4]; the first wins alone, then (6 + 4) / (3 + 1).
    same(ties(deltas, tensor([3.0, 1.0])), [1.0, 2.5])
    # A negative weight turns a direction round: votes [1, 2] and [2, -4], so 3 / (1 - 1 -> 1) and -4 / -1.
    same(ties(deltas, tensor([1.0, -1.0]), normalize=False), [3.0, -4.0])


def test_ties_keeps_exactly_as_many_as_the_density_says_even_of_equal_magnitudes():
    deltas = tensor([[1.0, -1.0, 1.0, 1.0, -1.0, 1.0]])
    same(ties(deltas, tensor([1.0]), density=0.5), [1.0, -1.0, 1.0, 0.0, 0.0, 0.0])


def test_ties_takes_a_density_for_each_model_and_keeps_at_least_one_change():
    deltas = tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    same(ties(deltas, tensor([1.0, 1.0]), density=[1.0, 0.1], normalize=False), [1.0, 2.0, 6.0])
    same(ties(deltas, tensor([1.0, 1.0]), density=[1.0, 0.0], normalize=False), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="2 models but 3 values"):
        ties(deltas, tensor([1.0, 1.0]), density=[1.0, 1.0, 1.0])


def test_ties_rescales_to_the_sum_of_magnitudes_before_the_trim():
    # 1 + 3 before, 3 after: the kept 3 becomes 4, at any scale.
    for scale in (1.0, 1e-9):
        merged = ties(tensor([[1.0, -3.0]]) * scale, tensor([1.0]), density=0.5, rescale=True)
        torch.testing.assert_close(merged, tensor([0.0, -4.0]) * scale, rtol=1e-5, atol=0)


def test_ties_refuses_weights_that_cancel_out():
    with pytest.raises(ValueError, match="sum to zero"):
        ties(torch.ones(2, 3), tensor([1.0, -1.0]))


def test_sce_selects_calculates_and_erases():
    # Variances [1, 0, 4, 9]: three differ, half of them is one: the last place.
    deltas = tensor([[1.0, 2.0, -1.0, 8.0], [3.0, 2.0, 3.0, 2.0]])
    # W = 64/68 and 4/68; both positive: (8 * 64 + 2 * 4) / 68.
    same(sce(deltas, torch.ones(2), select_topk=0.5), [0.0, 0.0, 0.0, 520 / 68])


def test_sce_drops_the_minority_sign_and_divides_by_what_agrees():
    deltas = tensor([[3.0, -1.0], [1.0, 2.0]])
    # W = 10/15 and 5/15. First place: (3 * 10 + 1 * 5) / 15. Second: the sum is positive, only b agrees.
    same(sce(deltas, torch.ones(2)), [35 / 15, 2.0])


def test_sce_calculates_shares_however_small_the_changes_are():
    deltas = tensor([[3.0, -1.0], [1.0, 2.0]])
    small = sce(deltas * 1e-5, torch.ones(2))
    torch.testing.assert_close(small, sce(deltas, torch.ones(2)) * 1e-5, rtol=1e-4, atol=0)


def test_passthrough_returns_the_one_model_scaled():
    same(passthrough(tensor([[1.0, -2.0]]), torch.ones(1)), [1.0, -2.0])
    same(passthrough(tensor([[1.0, -2.0]]), torch.ones(1), scale=[0.5]), [0.5, -1.0])
