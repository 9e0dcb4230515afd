"""DARE, breadcrumbs and DELLA on numbers to check by hand, and what their random numbers promise."""

from typing import Any

import numpy as np
import pytest
import torch
from merge_properties import Chunked, chunks_give_what_the_whole_gives, knobs_of, merge, some_rows
from torch import Tensor, tensor

from lab.merge.draws import Draws
from lab.merge.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties
from lab.merge.methods.dare import dare_linear, dare_ties
from lab.merge.methods.della import della, della_linear, probabilities
from lab.merge.registry import merge_methods

CHANGED_KNOBS = [
    ("dare_ties", {"density": 0.5}),
    ("dare_ties", {"density": 0.3, "rescale": False, "normalize": True}),
    ("dare_linear", {"density": 0.4, "rescale_by": "probability", "lambda_": 0.5}),
    ("dare_linear", {"density": 0.0}),
    ("breadcrumbs", {"density": 0.4, "gamma": 0.1}),
    ("breadcrumbs", {"density": 0.9, "gamma": 0.3, "rescale": True}),
    ("breadcrumbs", {"density": 0.0}),
    ("breadcrumbs_ties", {"density": 0.3, "gamma": 0.0, "normalize": True}),
    ("della", {"density": 0.5}),
    ("della", {"density": 0.5, "rescale": False}),
    ("della", {"density": 0.0}),
    ("della_linear", {"density": 0.3, "epsilon": 0.1, "normalize": True}),
]

RANDOM = [name for name in merge_methods if merge_methods[name].is_random]
ONE = torch.ones(1)


class Chosen(Draws):
    """Draws that were chosen beforehand, in place of random ones: the same for every model."""

    def __init__(self, *shares: float) -> None:
        self._drawn = np.array([share * 65536 for share in shares]).astype(np.uint16)

    def integers(self, model: int, start: int, count: int) -> np.ndarray:
        return self._drawn[start : start + count]

    def keep(self, model: int, probability: float, start: int, count: int) -> Tensor:
        return torch.from_numpy(self.integers(model, start, count) < probability * 65536)


def same(actual: Tensor, expected: list[Any]) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "knobs"), CHANGED_KNOBS)
def test_chunks_and_whole_agree_with_other_knobs_too(name: str, knobs: dict[str, Any]):
    for count in (1, 3):
        chunks_give_what_the_whole_gives(merge_methods[name], count, **knobs)


def test_dare_keeps_what_is_drawn_below_the_density_and_restores_the_sum_of_magnitudes():
    draws, deltas = Chosen(0.1, 0.9, 0.3, 0.6), tensor([[1.0, -2.0, 3.0, 4.0]])
    # Of magnitudes 10 the kept 1 and 3 are 4: times 2.5.
    same(dare_linear(deltas, ONE, draws=draws, density=0.5), [2.5, 0.0, 7.5, 0.0])
    same(dare_linear(deltas, ONE, draws=draws, density=0.5, rescale=False), [1.0, 0.0, 3.0, 0.0])
    # The paper's 1 / (1 - p), where p is the share that is dropped.
    same(dare_linear(deltas, ONE, draws=draws, density=0.5, rescale_by="probability"), [2.0, 0.0, 6.0, 0.0])


def test_dare_ties_elects_among_what_is_left():
    draws = Chosen(0.1, 0.9, 0.3)
    deltas = tensor([[3.0, 9.0, -1.0], [-1.0, 9.0, -2.0]])
    plain = {"draws": draws, "density": 0.5, "rescale": False}
    same(dare_ties(deltas, torch.ones(2), **plain), [3.0, 0.0, -3.0])
    same(dare_ties(deltas, tensor([0.5, 1.0]), **plain, normalize=True), [3.0, 0.0, -2.5 / 1.5])
    same(dare_linear(deltas, torch.ones(2), **plain, normalize=True), [1.0, 0.0, -1.5])


def test_dare_rescales_changes_of_any_size():
    """mergekit leaves a tensor alone whose magnitudes sum to less than 1e-7; here nothing is too small."""
    draws, deltas = Chosen(0.1, 0.9), tensor([[1.0, 3.0]])
    small = dare_linear(deltas * 1e-9, ONE, draws=draws, density=0.5)
    torch.testing.assert_close(small, tensor([4e-9, 0.0]), rtol=1e-5, atol=0)
    assert float((deltas * 1e-9).abs().sum()) < 1e-7  # mergekit's floor: it would give 1e-9


def test_breadcrumbs_drop_both_ends():
    # Of 5, gamma 0.2 drops the largest, density 0.4 keeps the next two.
    deltas = tensor([[5.0, -1.0, 2.0, -4.0, 3.0]])
    same(breadcrumbs(deltas, ONE, density=0.4, gamma=0.2), [0.0, 0.0, 0.0, -4.0, 3.0])
    same(breadcrumbs(deltas, ONE, density=0.4, gamma=0.0), [5.0, 0.0, 0.0, -4.0, 0.0])
    # Only one may go where four have to be kept, however many gamma would drop.
    same(breadcrumbs(deltas, ONE, density=0.8, gamma=0.6), [0.0, -1.0, 2.0, -4.0, 3.0])
    same(breadcrumbs(deltas, ONE, density=1.0, gamma=0.6), [5.0, -1.0, 2.0, -4.0, 3.0])
    same(breadcrumbs(deltas, ONE, density=0.4, gamma=0.2, rescale=True), [0.0, 0.0, 0.0, -60 / 7, 45 / 7])


def test_breadcrumbs_of_a_small_tensor_are_not_all_dropped():
    """mergekit 0.1.4 zeroed every tensor of fewer than 1 / gamma elements."""
    same(breadcrumbs(tensor([[2.0, 1.0]]), ONE, density=0.5), [2.0, 0.0])


def test_breadcrumbs_ties_elects_among_what_is_left():
    deltas = tensor([[9.0, 3.0, 1.0, 0.0], [-9.0, -1.0, 0.0, 2.0]])
    # gamma 0.25 drops the nines, density 0.25 keeps one: [0, 3, 0, 0] and [0, 0, 0, 2].
    same(breadcrumbs_ties(deltas, torch.ones(2), density=0.25, gamma=0.25), [0.0, 3.0, 0.0, 2.0])
    # Density 0.5: [0, 3, 1, 0] and [0, -1, 0, 2].
    same(breadcrumbs_ties(deltas, torch.ones(2), density=0.5, gamma=0.25), [0.0, 3.0, 1.0, 2.0])
    same(breadcrumbs(deltas, torch.ones(2), density=0.5, gamma=0.25), [0.0, 2.0, 1.0, 2.0])


def test_della_s_probability_grows_with_the_rank():
    assert (probabilities(0.5, 0.1, 3) / 65536).round(3).tolist() == [0.4, 0.5, 0.6]
    assert (probabilities(0.3, 0.2, 1) / 65536).round(3).tolist() == [0.3]


def test_della_keeps_a_change_where_the_draw_is_below_its_rank_s_probability():
    # Ranks in the first row 3, 1, 2: kept with 0.6, 0.4, 0.5; in the second row 1, 2, 3.
    deltas = tensor([[[3.0, -1.0, 2.0], [1.0, 2.0, -7.0]]])
    draws = Chosen(0.45, 0.45, 0.45, 0.55, 0.55, 0.55)
    kept = {"draws": draws, "density": 0.5, "epsilon": 0.1}
    same(della_linear(deltas, ONE, **kept, rescale=False), [[3.0, 0.0, 2.0], [0.0, 0.0, -7.0]])
    # Of magnitudes 16 twelve are left, in the whole tensor.
    same(della_linear(deltas, ONE, **kept), [[4.0, 0.0, 8 / 3], [0.0, 0.0, -28 / 3]])
    same(della(deltas, tensor([0.5]), **kept), [[4.0, 0.0, 8 / 3], [0.0, 0.0, -28 / 3]])


def test_equal_magnitudes_share_the_highest_of_their_ranks():
    draws = Chosen(0.55, 0.55, 0.55, 0.55)
    deltas = tensor([[2.0, -2.0, 1.0, 2.0]])  # the twos have ranks 2, 3, 4, and 0.6; mergekit breaks the tie
    kept = della_linear(deltas, ONE, draws=draws, density=0.5, epsilon=0.1, rescale=False)
    same(kept, [2.0, -2.0, 0.0, 2.0])


def test_della_refuses_probabilities_beyond_zero_and_one():
    with pytest.raises(ValueError, match=r"probabilities from -0.05 to 0.25"):
        della(torch.ones(1, 2, 2), ONE, draws=Draws(), density=0.1)
    with pytest.raises(ValueError, match=r"probabilities from 0.75 to 1.05"):
        della(torch.ones(1, 2, 2), ONE, draws=Draws(), density=0.9)


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_method_repeats_with_its_seed_and_differs_with_another(name: str):
    rows, method = some_rows(2, (20, 30)), merge_methods[name]
    first, again, other = (
        merge(method, rows.clone(), torch.ones(2), seed, density=0.5) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_method_gives_the_same_bits_in_chunks_of_any_length(name: str):
    rows, weights, method = some_rows(2, (40, 30)), torch.ones(2), merge_methods[name]
    knobs = knobs_of(method, density=0.5, rescale=False)
    results = [
        torch.cat([piece.clone() for piece in method.stream(Chunked(rows, length), weights, knobs, Draws(1))])
        for length in (30, 90, 1200)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_method_keeps_as_many_as_the_density_says_of_each_model_apart(name: str):
    rows, method = torch.ones(2, 300, 300) * tensor([1.0, 10.0]).view(2, 1, 1), merge_methods[name]
    rows = rows * torch.linspace(1, 1.1, 300)  # magnitudes that rank
    merged = merge(method, rows, torch.ones(2), density=0.4, rescale=False, normalize=False)
    first, second = (merged % 10 > 0.9) & (merged % 10 < 1.2) | (merged > 10.9), merged > 5
    assert abs(float(second.float().mean()) - 0.4) < 0.01
    alone = (merged > 0.5) & (merged < 5)
    assert abs(float(alone.float().mean()) - 0.4 * 0.6) < 0.01
    assert bool((first | second | (merged == 0)).all())


def test_what_della_keeps_grows_with_the_rank_on_average():
    deltas = torch.linspace(1, 2, 100).repeat(1, 2000, 1)
    kept = della_linear(deltas, ONE, draws=Draws(4), density=0.5, epsilon=0.2, rescale=False) != 0
    shares = kept.float().mean(0)
    torch.testing.assert_close(shares, torch.linspace(0.3, 0.7, 100), rtol=0, atol=0.05)
