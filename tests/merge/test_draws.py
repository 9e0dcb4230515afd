"""Random decisions that depend on seed, tensor, model and place, and on nothing else."""

import numpy as np
import pytest
import torch

from lab.merge.draws import Draws


def test_a_number_is_the_same_in_any_chunk_and_any_order():
    draws = Draws(7, "model.norm.weight")
    whole = draws.integers(1, 0, 100)
    for length in (1, 5, 16, 33):
        pieces = [draws.integers(1, start, min(length, 100 - start)) for start in range(0, 100, length)]
        assert np.array_equal(np.concatenate(pieces), whole)
        assert np.array_equal(Draws(7, "model.norm.weight").integers(1, 64, 36), whole[64:])


@pytest.mark.parametrize("other", [(8, "a", 0), (7, "b", 0), (7, "a", 1)], ids=["seed", "tensor", "model"])
def test_seed_tensor_and_model_each_give_other_numbers(other: tuple[int, str, int]):
    seed, tensor, model = other
    equal = Draws(7, "a").integers(0, 0, 4096) == Draws(seed, tensor).integers(model, 0, 4096)
    assert equal.sum() < 8  # of 4,096 numbers of 16 bits, about 0.06 are equal by chance


def test_the_numbers_are_those_of_numpy_s_philox():
    """The key is the sha256 of the names; so a release of ours or numpy's can't change a merge unseen."""
    assert Draws(1, "t").integers(0, 0, 5).tolist() == [39960, 22708, 3444, 20351, 57251]
    assert Draws(1, "t").integers(0, 1 << 33, 2).tolist() == [58152, 8950]


@pytest.mark.parametrize("probability", [0.5, 0.1, 0.001, 0.9])
def test_as_many_are_kept_as_the_probability_says(probability: float):
    kept = Draws(3, "t").keep(0, probability, 0, 400_000)
    spread = (probability * (1 - probability) / 400_000) ** 0.5
    assert abs(float(kept.float().mean()) - probability) < 4 * spread


def test_a_probability_between_two_steps_of_eight_bits_is_exact_on_average():
    # A fifth of a step: 8 bits alone would keep none, or one in 256.
    total = 1 << 20
    kept = int(Draws(5, "t").keep(0, 0.2 / 256, 0, total).sum())
    assert abs(kept - 819) < 4 * 819**0.5


def test_decisions_are_the_same_in_any_chunk_and_any_order():
    whole = Draws(7, "t").keep(1, 0.3, 0, 1000)
    for length in (1, 32, 100):
        draws = Draws(7, "t")
        starts = range(0, 1000, length)
        pieces = {start: draws.keep(1, 0.3, start, min(length, 1000 - start)) for start in reversed(starts)}
        assert torch.equal(torch.cat([pieces[start] for start in starts]), whole)


def test_none_and_all_are_certain():
    assert not Draws().keep(0, 0.0, 0, 1000).any()
    assert Draws().keep(0, 1.0, 0, 1000).all()
    edge = np.array([0, 65535], np.uint16).repeat(1000)
    kept = Draws().keep_each(0, edge, 0)
    assert not kept[:1000].any()
    assert kept[1000:].mean() > 0.99


def test_neighbours_and_models_are_not_correlated():
    rows = np.stack([Draws(1, "t").integers(model, 0, 100_000) for model in range(3)]).astype(float)
    assert np.abs(np.corrcoef(rows) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(rows[0, :-1], rows[0, 1:])[0, 1]) < 0.02
    assert torch.tensor(rows).mean().item() == pytest.approx(32767.5, rel=0.01)
