"""Kinship figures: by hand, against whole tensors, and whatever way they are cut into chunks."""

import json
import math

import pytest
import torch

from lab.merge.inspect.kinship import EDGES, from_json, measure, pairs, to_json, total


def test_the_figures_of_two_models_worked_by_hand() -> None:
    base = torch.tensor([3.0, 4.0, 0.0, 0.0])
    one = base + torch.tensor([0.0, 0.0, 3.0, 4.0])
    two = base + torch.tensor([0.0, 0.0, -3.0, 4.0])
    tally = measure(base, torch.stack([one, two]))
    assert tally.distance(0) == tally.distance(1) == 1.0  # |d| = |b| = 5
    assert tally.distance_to(0) == pytest.approx(5 / math.sqrt(50))
    assert tally.cosine(0) == pytest.approx((-9 + 16) / 25)
    assert tally.conflicts(0) == 0.5  # both moved two elements, one of them in opposite directions
    assert tally.weight_cosine(0, 1) == pytest.approx((25 + 7) / 50)
    assert tally.weight_cosine(-1, 0) == pytest.approx(25 / math.sqrt(25 * 50))
    assert (tally.moved, tally.largest, tally.beyond, tally.within) == ((2, 2), (4, 4), (2, 2), (2, 2))


def test_a_model_that_did_not_move_has_no_direction() -> None:
    base = torch.tensor([1.0, 2.0])
    tally = measure(base, torch.stack([base, base + 1]))
    assert tally.distance(0) == 0.0
    assert tally.cosine(0) is None
    assert tally.conflicts(0) is None
    assert measure(torch.zeros(2), base[None]).distance(0) is None


def test_a_histogram_counts_every_change_once_in_its_decade() -> None:
    sizes = torch.tensor([0.0, 1e-9, 2e-3, 2e-3, 50.0])
    (histogram,) = measure(torch.zeros(5), sizes[None]).histogram
    assert len(histogram) == len(EDGES) + 1
    assert sum(histogram) == 5
    assert histogram[0] == 2
    assert histogram[-1] == 1
    place = next(i for i, count in enumerate(histogram[1:-1], 1) if count)
    assert EDGES[place - 1] <= 2e-3 < EDGES[place]


def test_values_that_are_not_finite_are_counted_and_left_out_of_all_else() -> None:
    base = torch.tensor([1.0, 1.0, float("nan"), 1.0])
    row = torch.tensor([2.0, float("inf"), 1.0, 1.0])
    tally = measure(base, row[None])
    assert (tally.base_broken, tally.broken, tally.count) == (1, (1,), 2)
    assert tally.distance(0) == pytest.approx(math.sqrt(1 / 2))


def numbers(models: int, size: int, scale: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    base = torch.randn(size, generator=generator)
    return base, base + scale * torch.randn(models, size, generator=generator)


def test_the_tally_of_two_halves_is_the_tally_of_the_whole() -> None:
    base, rows = numbers(3, 1000)
    whole = measure(base, rows)
    halves = total([measure(base[:300], rows[:, :300]), measure(base[300:], rows[:, 300:])])
    for name, value in to_json(whole, 12).items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(to_json(halves, 12)[name]))


def test_the_ratios_agree_with_torch_on_whole_tensors() -> None:
    base, rows = numbers(3, 5000)
    tally, deltas = measure(base, rows), rows.double() - base.double()
    for place, (i, j) in enumerate(pairs(3)):
        cosine = torch.cosine_similarity(deltas[i], deltas[j], dim=0)
        assert tally.cosine(place) == pytest.approx(float(cosine), abs=1e-12)
        opposite = (deltas[i] * deltas[j] < 0).double().mean()
        assert tally.conflicts(place) == pytest.approx(float(opposite), abs=1e-12)
        weights = torch.cosine_similarity(rows[i].double(), rows[j].double(), dim=0)
        assert tally.weight_cosine(i, j) == pytest.approx(float(weights), abs=1e-12)
    for model in range(3):
        expected = deltas[model].norm() / base.double().norm()
        assert tally.distance(model) == pytest.approx(float(expected), rel=1e-12)


def test_scaling_changes_counts_and_no_ratio() -> None:
    base, rows = numbers(2, 100)
    tally = measure(base, rows)
    twice = tally.scaled(2.0)
    assert twice.count == 200
    assert twice.largest == tally.largest
    assert twice.distance(0) == pytest.approx(tally.distance(0))
    assert twice.conflicts(0) == pytest.approx(tally.conflicts(0))


def test_a_tally_survives_json() -> None:
    base, rows = numbers(2, 50)
    tally = measure(base, rows)
    again = from_json(json.loads(json.dumps(to_json(tally, 17))))
    assert again == tally


def test_tallies_of_different_numbers_of_models_do_not_add_up() -> None:
    base, rows = numbers(2, 50)
    with pytest.raises(ValueError, match="different numbers"):
        total([measure(base, rows), measure(base, rows[:1])])
    with pytest.raises(ValueError, match="no tally"):
        total([])
