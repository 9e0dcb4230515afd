"""VaRM on numbers to check by hand, and its first pass over a whole model."""

from pathlib import Path

import pytest
import torch
from merge_properties import chunks_give_what_the_whole_gives
from safetensors.torch import load_file
from tiny_merge import TinyJob, TinyShelf
from torch import Tensor, tensor

import lab.merge.gathering
import lab.merge.reading
from lab.core.errors import Released
from lab.core.spec import spec_sha256
from lab.merge.check import prepare
from lab.merge.engine import Engine
from lab.merge.gathering import gather, groups_of
from lab.merge.methods.sce import sce
from lab.merge.methods.varm import varm
from lab.merge.registry import merge_methods
from lab.merge.run import run
from lab.merge.spec import MergeSpec, merge_of

VARM = merge_methods["varm"]


def same(actual: Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-5, atol=0)


def three(**knobs: object) -> MergeSpec:
    return merge_of("varm", [("a", 1), ("b", 1), ("c", 1)], base="base", name="out", knobs=knobs)


def loaded(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def test_a_matrix_counts_by_its_mean_square():
    # Mean squares 2.5 and 10: shares 0.2 and 0.8.
    deltas = tensor([[1.0, 2.0], [2.0, -4.0]])
    same(varm(deltas, torch.ones(2)), [1.8, -2.8])
    same(varm(deltas * 1e-12, torch.ones(2)), [1.8e-12, -2.8e-12])


def test_a_single_parameter_counts_by_its_square_wherever_it_is():
    # (1 + 8) / (1 + 4) and (8 - 64) / (4 + 16); nobody moved the last.
    deltas = tensor([[1.0, 2.0, 0.0], [2.0, -4.0, 0.0]])
    same(varm(deltas, torch.ones(2), granularity="parameter"), [1.8, -2.8, 0.0])
    deltas = tensor([[1.0, 3.0], [2.0, 1.0]])
    same(varm(deltas * 1e-25, torch.ones(2), granularity="parameter"), [1.8e-25, 2.8e-25])


def test_layer_and_model_take_the_shares_that_they_are_given():
    deltas = tensor([[1.0, 2.0], [2.0, -4.0]])
    known = {"shares": tensor([0.5, 0.5])}
    for granularity in ("layer", "model"):
        same(varm(deltas, torch.ones(2), granularity=granularity, known=known), [1.5, -1.0])


@pytest.mark.parametrize("granularity", ["model", "layer", "matrix", "parameter"])
def test_every_granularity_is_the_same_in_chunks(granularity: str):
    for count in (1, 2, 3):
        chunks_give_what_the_whole_gives(VARM, count, granularity=granularity)


@pytest.mark.parametrize("granularity", ["model", "layer", "matrix", "parameter"])
def test_a_merge_is_what_the_definition_says(
    family: TinyShelf, job: TinyJob, monkeypatch: pytest.MonkeyPatch, granularity: str
):
    monkeypatch.setattr(lab.merge.reading, "CHUNK", 50)
    spec = three(granularity=granularity)
    merged = loaded(run(spec, job).models[0].folder)
    base, *models = [loaded(family.model(name)) for name in ("base", "a", "b", "c")]
    deltas = {
        name: torch.stack([model[name].double() - value.double() for model in models])
        for name, value in base.items()
    }
    for name, value in merged.items():
        layer = ".".join(name.split(".")[:3]) + "." if ".layers." in name else name
        over = {"model": "", "layer": layer, "matrix": name}.get(granularity)
        moved = (
            deltas[name] ** 2
            if over is None
            else sum((deltas[n] ** 2).flatten(1).sum(1) for n in deltas if n.startswith(over)).view(
                -1, *[1] * value.ndim
            )
        )
        expected = base[name].double() + (moved / moved.sum(0) * deltas[name]).sum(0)
        torch.testing.assert_close(value.double(), expected.bfloat16().double(), rtol=0.01, atol=1e-6)


def test_layers_are_counted_apart_and_what_is_outside_them_alone(family: TinyShelf):
    groups = groups_of(prepare(three(granularity="layer"), family))
    assert sorted(len(group.tensors) for group in groups) == [1, 1, 9, 9]
    (whole,) = groups_of(prepare(three(granularity="model"), family))
    assert len(whole.tensors) == 20


def test_a_method_that_needs_nothing_of_other_tensors_reads_them_once(
    family: TinyShelf, job: TinyJob, tmp_path: Path
):
    plan = prepare(three(granularity="matrix"), family)
    assert plan.first_seconds == 0
    assert gather(plan, tmp_path / "work", "recipe", job) == {}
    assert not (tmp_path / "work").exists()
    assert prepare(three(granularity="model"), family).seconds > plan.seconds


def test_any_number_of_threads_finds_the_same_to_the_bit(family: TinyShelf, job: TinyJob, tmp_path: Path):
    spec = three(granularity="model")
    results = []
    for threads in (1, 2, 5):
        engine = Engine(prepare(spec, job), tmp_path / str(threads), spec_sha256(spec), threads=threads)
        engine.run(job)
        results.append((engine.folder / "model.safetensors").read_bytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_first_pass_that_was_killed_goes_on_where_it_was(
    family: TinyShelf, job: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
):
    monkeypatch.setattr(lab.merge.gathering, "KEEP_SECONDS", -1.0)
    plan = prepare(three(granularity="model"), job)
    whole = gather(plan, tmp_path / "whole", "recipe", job)
    file = tmp_path / "broken" / "first-pass.safetensors"

    def fail_half_way() -> None:
        if file.exists() and lab.merge.gathering._State(file, "recipe").place >= 7:
            raise Released

    job.on_breath = fail_half_way
    with pytest.raises(Released):
        gather(plan, tmp_path / "broken", "recipe", job, threads)
    kept = lab.merge.gathering._State(file, "recipe").place
    assert 7 <= kept < 20

    read = []
    plain = lab.merge.gathering.TensorStack
    monkeypatch.setattr(
        lab.merge.gathering, "TensorStack", lambda tensor, *rest: read.append(tensor) or plain(tensor, *rest)
    )
    job.on_breath = lambda: None
    resumed = gather(plan, tmp_path / "broken", "recipe", job, threads)
    assert len(read) == 20 - kept
    assert all(torch.equal(resumed[name]["shares"], whole[name]["shares"]) for name in whole)


def test_sums_of_another_recipe_and_a_damaged_file_are_not_taken_over(
    family: TinyShelf, job: TinyJob, tmp_path: Path
):
    plan = prepare(three(granularity="model"), job)
    first = gather(plan, tmp_path, "one", job)
    (tmp_path / "first-pass.safetensors").write_bytes(b"cut short")
    again = gather(plan, tmp_path, "one", job)
    assert torch.equal(first["model.norm.weight"]["shares"], again["model.norm.weight"]["shares"])
    other = gather(prepare(merge_of("varm", [("c", 1)], base="base", name="out",
                                    knobs={"granularity": "model"}), job), tmp_path, "two", job)  # fmt: skip
    assert other["model.norm.weight"]["shares"].tolist() == [1.0]


def test_sce_selects_for_the_coefficients_only_where_asked():
    # Variances [1, 0, 4, 9]: the last place is selected. W = 64/68 and 4/68 either way.
    deltas = tensor([[1.0, 2.0, -1.0, 8.0], [3.0, 2.0, 3.0, 2.0]])
    one, other = 64 / 68, 4 / 68
    full = [one + 3 * other, 2.0, 3.0, 8 * one + 2 * other]  # in the third place only b has the sum's sign
    same(sce(deltas, torch.ones(2), select_topk=0.5, select_scope="coefficients"), full)
    chunks_give_what_the_whole_gives(merge_methods["sce"], 3, select_topk=0.3, select_scope="coefficients")


@pytest.mark.parametrize("scope", ["update", "coefficients"])
def test_a_tensor_too_large_to_keep_its_variances_is_merged_the_same(
    scope: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lab.merge.methods.sce._MOST_KEPT", 0)
    chunks_give_what_the_whole_gives(merge_methods["sce"], 3, select_topk=0.3, select_scope=scope)


def test_the_two_scopes_of_sce_are_one_when_everything_is_selected():
    deltas = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    both = [sce(deltas, torch.ones(5), select_scope=scope) for scope in ("update", "coefficients")]
    assert torch.equal(both[0], both[1])


def test_on_correlated_deltas_the_coefficient_scope_keeps_what_the_update_scope_drops():
    """Five models that share half of their change, a tenth selected."""
    generator = torch.Generator().manual_seed(1)
    shared, own = torch.randn(1, 20_000, generator=generator), torch.randn(5, 20_000, generator=generator)
    deltas = 0.5**0.5 * (shared + own)
    update, full = (
        sce(deltas, torch.ones(5), select_topk=0.1, select_scope=scope)
        for scope in ("update", "coefficients")
    )
    changed = [(merged != 0).float().mean().item() for merged in (update, full)]
    assert changed == [pytest.approx(0.1, abs=1e-3), 1.0]
    assert update.norm() < 0.7 * full.norm()
