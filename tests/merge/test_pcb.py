"""PCB-Merging: exact quantiles, numbers to check by hand, the definition in numpy over a whole model."""

from math import exp, tanh
from pathlib import Path

import numpy as np
import pytest
import torch
from merge_properties import chunks_give_what_the_whole_gives
from safetensors.torch import load_file
from tiny_merge import TinyJob, TinyShelf
from torch import Tensor, tensor

import lab.merge.reading
from lab.merge.methods.pcb import balances, pcb
from lab.merge.quantiles import FineCounts, coarse_counts, find, number_at
from lab.merge.registry import merge_methods
from lab.merge.run import run
from lab.merge.spec import merge_of


def loaded(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def test_ranks_by_counting_are_those_of_sorting_whatever_the_signs():
    values = torch.randn(999, generator=torch.Generator().manual_seed(0)) * 1e-3
    values[:40] = 0.0
    values[40:60] = -0.0
    values[60:80] = values[80:100]
    ordered = values.sort().values
    halves = values.split(500)
    counts = sum(coarse_counts(half) for half in halves)
    for rank in (0, 1, 500, 520, 997, 998):
        place, inside = find(counts, rank)
        fine = FineCounts(place)
        for half in halves:
            fine.add(half)
        assert number_at(place, find(fine.counts(), inside)[0]) == ordered[rank].item()


def test_two_models_compete_for_two_places():
    # Magnitudes 1..3 and 2..4 become 0, 0.5, 1 each. In the last place both agree, in the second they differ.
    deltas = tensor([[1.0, 2.0, 3.0], [2.0, -3.0, 4.0]])
    z, agreed = tanh(0.25), 2 * tanh(1.0)
    balance, clamped = balances(deltas, [(1.0, 3.0), (2.0, 4.0)])
    second = exp(2 * 0.25) * (z - z)
    torch.testing.assert_close(balance, tensor([[0.0, second, exp(2) * agreed]] * 2), atol=1e-6, rtol=1e-5)
    assert torch.equal(clamped, deltas)
    # A third stays: the last place of each, where both count 1: (3 + 4) / 2.
    torch.testing.assert_close(
        pcb(deltas, torch.ones(2), ratio=1 / 3 + 1e-6, clamp=0.0), tensor([0.0, 0.0, 3.5])
    )
    torch.testing.assert_close(
        pcb(deltas, tensor([1.2, 0.4]), ratio=1 / 3 + 1e-6, clamp=0.0), tensor([0.0, 0.0, (3.6 + 1.6) / 2])
    )


@pytest.mark.parametrize("ratio", [0.05, 0.2])
def test_each_model_keeps_its_share_of_its_changes(ratio: float):
    """What was measured with the authors' form: 5.0 % of each at 0.05, and more of all together."""
    deltas = torch.randn(5, 20_000, generator=torch.Generator().manual_seed(2))
    alone = [pcb(deltas, weights, ratio=ratio) for weights in torch.eye(5)]
    for merged in alone:
        assert (merged != 0).float().mean().item() == pytest.approx(ratio, abs=1e-3)
    together = (pcb(deltas, torch.ones(5), ratio=ratio) != 0).float().mean().item()
    assert 2 * ratio < together < 5 * ratio


def test_pcb_is_the_same_in_chunks_with_other_knobs():
    method = merge_methods["pcb"]
    for knobs in ({"ratio": 1.0}, {"ratio": 0.3, "clamp": 0.1}, {"ratio": 0.3, "scope": "tensor"}):
        chunks_give_what_the_whole_gives(method, 3, **knobs)


def in_numpy(deltas: np.ndarray, ratio: float, clamp: float) -> np.ndarray:
    """The definition, over one long vector for each model, by sorting."""
    models, count = deltas.shape
    size = np.abs(deltas)
    ordered = np.sort(size, axis=1)
    low, high = int(count * clamp), int(count * (1 - clamp)) - 1
    size = np.clip(size, ordered[:, [low]], ordered[:, [high]])
    norm = (size - size.min(1, keepdims=True)) / np.ptp(size, axis=1, keepdims=True)
    z = np.sign(deltas) * norm
    inter = np.tanh(z[:, None] * z[None]).sum(1)
    beta = np.exp(models * norm**2) * inter
    threshold = np.sort(beta, axis=1)[:, [int(count * (1 - ratio))]]
    beta = np.maximum(beta, threshold)
    beta = (beta - threshold) / (beta.max(1, keepdims=True) - threshold)
    return (beta * np.sign(deltas) * size).sum(0) / np.maximum(beta.sum(0), 1e-12)


def test_a_merge_lets_the_whole_model_compete(
    family: TinyShelf, job: TinyJob, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lab.merge.reading, "CHUNK", 50)
    models = [("a", 1), ("b", 1), ("c", 1)]
    spec = merge_of(
        "pcb", models, base="base", name="out", dtype="float32", knobs={"ratio": 0.1, "clamp": 0.01}
    )
    merged = loaded(run(spec, job).models[0].folder)
    base, *tuned = [loaded(family.model(name)) for name in ("base", "a", "b", "c")]
    flat = [torch.cat([model[name].float().flatten() for name in merged]).numpy() for model in (base, *tuned)]
    expected = flat[0] + in_numpy(np.stack(flat[1:]).astype(np.float64) - flat[0], 0.1, 0.01)
    actual = torch.cat([value.flatten() for value in merged.values()]).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
