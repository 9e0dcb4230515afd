"""NuSLERP, Multi-SLERP, Karcher mean and Model Stock on numbers to check by hand, at any scale."""

from math import cos, pi, sin, sqrt
from typing import Any

import pytest
import torch
from merge_properties import chunks_give_what_the_whole_gives, some_rows
from torch import Tensor, tensor

from lab.merge.methods.karcher import karcher
from lab.merge.methods.model_stock import model_stock
from lab.merge.methods.multislerp import multislerp
from lab.merge.methods.nuslerp import nuslerp
from lab.merge.methods.slerp import slerp
from lab.merge.registry import merge_methods

CHANGED_KNOBS = [
    ("nuslerp", {"nuslerp_flatten": False}),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", {"normalize_weights": False}),
    ("karcher", {"max_iter": 1}),
    ("model_stock", {"filter_wise": True}),
]


def same(actual: Tensor, expected: list[Any], scale: float = 1.0) -> None:
    torch.testing.assert_close(actual, tensor(expected) * scale, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize(("name", "knobs"), CHANGED_KNOBS)
def test_chunks_and_whole_agree_with_other_knobs_too(name: str, knobs: dict[str, Any]):
    method = merge_methods[name]
    for count in range(method.models[0], min(method.models[1], 3) + 1):
        chunks_give_what_the_whole_gives(method, count, **knobs)


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_nuslerp_goes_by_the_weights_along_the_arc(scale: float):
    rows = tensor([[2.0, 0.0], [0.0, 1.0]]) * scale
    # t = 1 / 4 of a right angle: sin(67.5) of a, sin(22.5) of b. mergekit takes 1e-9 for zero, and so for a
    # right angle whatever the directions are.
    same(nuslerp(rows, tensor([3.0, 1.0])), [2 * sin(3 * pi / 8), sin(pi / 8)], scale)
    same(nuslerp(rows, tensor([1.0, -1.0])), [2 * sqrt(0.5), sqrt(0.5)], scale)
    near = tensor([[1.0, 0.0], [1.0, 1.0]]) * scale
    same(nuslerp(near, tensor([1.0, 1.0])), [2 * sin(pi / 8) / sin(pi / 4), sin(pi / 8) / sin(pi / 4)], scale)


def test_nuslerp_of_colinear_or_zero_models_is_the_line():
    same(nuslerp(tensor([[1.0, 2.0], [3.0, 6.0]]), tensor([3.0, 1.0])), [1.5, 3.0])
    same(nuslerp(tensor([[0.0, 0.0], [4.0, 2.0]]), tensor([1.0, 1.0])), [2.0, 1.0])
    rows = tensor([[[0.0, 0.0], [1.0, 0.0]], [[4.0, 2.0], [0.0, 1.0]]])
    same(nuslerp(rows, torch.ones(2), nuslerp_flatten=False), [[2.0, 1.0], [sqrt(0.5), sqrt(0.5)]])


def test_nuslerp_takes_rows_or_columns_for_themselves():
    # Rows at a right angle in the first place, equal in the second.
    rows = tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    half = sqrt(0.5)
    same(nuslerp(rows, torch.ones(2), nuslerp_flatten=False), [[half, half], [1.0, 1.0]])
    columns = rows.transpose(1, 2)
    same(
        nuslerp(columns, torch.ones(2), nuslerp_flatten=False, nuslerp_row_wise=True),
        [[half, 1.0], [half, 1.0]],
    )


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_multislerp_gives_the_mean_direction_the_mean_length(scale: float):
    rows = tensor([[3.0, 0.0], [0.0, 4.0]]) * scale
    same(multislerp(rows, tensor([1.0, 1.0])), [3.5 * sqrt(0.5), 3.5 * sqrt(0.5)], scale)
    # Weights 3/4 and 1/4: direction (3, 1) / sqrt(10), length 9/4 + 1.
    same(multislerp(rows, tensor([3.0, 1.0])), [3.25 * 3 / sqrt(10), 3.25 / sqrt(10)], scale)
    same(multislerp(rows[:1], tensor([0.2])), [3.0, 0.0], scale)


def test_mergekit_s_tangent_step_of_multislerp_is_zero():
    """It projects at the normalised weighted mean, where the weighted tangents cancel out."""
    units = torch.nn.functional.normalize(some_rows(3, (20,)).double(), dim=1)
    weights = tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mean = torch.nn.functional.normalize(weights @ units, dim=0)
    tangents = units - (units @ mean)[:, None] * mean
    assert float((weights @ tangents).norm()) < 1e-15


def test_directions_that_cancel_out_are_added_by_weight_or_refused():
    same(multislerp(tensor([[2.0, 0.0], [-4.0, 0.0]]), torch.ones(2)), [-1.0, 0.0])
    three = tensor([[1.0, 0.0], [-0.5, sqrt(0.75)], [-0.5, -sqrt(0.75)]])
    with pytest.raises(ValueError, match="cancel out"):
        multislerp(three, torch.ones(3), eps=1e-6)
    same(multislerp(torch.zeros(3, 2), torch.ones(3)), [0.0, 0.0])


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_karcher_mean_lies_half_way_and_in_the_middle(scale: float):
    # At 1e-9 mergekit finds every model shorter than its tol of 1e-5, and returns zeros.
    same(karcher(tensor([[2.0, 0.0], [0.0, 4.0]]) * scale, torch.ones(2)), [3 * sqrt(0.5)] * 2, scale)
    same(karcher(torch.eye(3) * scale, torch.ones(3)), [1 / sqrt(3)] * 3, scale)


def test_the_karcher_mean_halves_an_angle_that_the_normalised_sum_does_not():
    """Two models at 0 and one at 90 degrees: the mean angle is 30; the normalised sum's is 26.6."""
    rows = tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same(karcher(rows, torch.ones(3), max_iter=50, tol=1e-7), [cos(pi / 6), sin(pi / 6)])


def test_a_zero_model_has_no_direction_but_a_length():
    same(karcher(tensor([[0.0, 0.0], [3.0, 0.0]]), torch.ones(2)), [1.5, 0.0])
    same(karcher(torch.zeros(2, 2), torch.ones(2)), [0.0, 0.0])
    assert karcher(tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2)).isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_model_stock_trusts_the_average_as_far_as_the_deltas_agree(scale: float):
    deltas = tensor([[1.0, 0.0], [1.0, 1.0]]) * scale
    c = sqrt(0.5)
    t = 2 * c / (1 + c)
    same(model_stock(deltas, torch.ones(2)), [t, t / 2], scale)
    # mergekit's floor of 1e-6 under the product of the lengths makes a cosine of 1e-4 of it at 1e-5.
    product = deltas.norm(dim=1).prod().clamp_min(1e-6)
    floored = float((deltas[0] * deltas[1]).sum() / product)
    assert floored == pytest.approx(c if scale == 1 else 1e-4, rel=1e-3)


def test_model_stock_stays_at_the_base_where_deltas_do_not_agree():
    same(model_stock(tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2)), [0.0, 0.0])
    same(model_stock(tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.ones(2)), [0.0, 0.0])  # the pole
    same(model_stock(tensor([[2.0, 0.0], [2.0, 0.0]]), torch.ones(2)), [2.0, 0.0])


def test_model_stock_may_take_an_angle_for_each_row():
    deltas = tensor([[[1.0, 0.0], [2.0, 2.0]], [[0.0, 1.0], [2.0, 2.0]]])
    same(model_stock(deltas, torch.ones(2), filter_wise=True), [[0.0, 0.0], [2.0, 2.0]])
    same(model_stock(deltas[:, 1], torch.ones(2), filter_wise=True), [2.0, 2.0])


def test_slerp_and_nuslerp_agree_where_mergekit_s_do():
    rows = some_rows(2)
    torch.testing.assert_close(slerp(rows, torch.ones(2), t=0.25), nuslerp(rows, tensor([3.0, 1.0])))
