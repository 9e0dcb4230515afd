"""Alignment of hidden units: a permuted model is the same model, and merges back to itself exactly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_merge import TinyJob
from tiny_models import Bench, Shape, tuned_from, weights_of, write_bench, write_model
from torch import Tensor, tensor

import lab.merge.aligning
from lab.core.errors import BadInput
from lab.merge.aligning import best_order
from lab.merge.check import check
from lab.merge.methods.pleas import pleas
from lab.merge.run import run
from lab.merge.spec import MergeSpec, merge_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return write_bench(tmp_path / "models")


@pytest.fixture
def job(bench: Bench, tmp_path: Path) -> TinyJob:
    (tmp_path / "job").mkdir()
    return TinyJob(bench.root, folder=tmp_path / "job")


def permuted(weights: dict[str, Tensor], shape: Shape, seed: int) -> dict[str, Tensor]:
    """Return the same model with its hidden units and its groups of heads in another order."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = dict(weights)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        units = torch.randperm(shape.intermediate, generator=generator)
        groups = torch.randperm(shape.kv_heads, generator=generator)
        if torch.equal(groups, torch.arange(shape.kv_heads)):
            groups = groups.flip(0)
        for name in ("gate", "up"):
            shuffled[f"{at}mlp.{name}_proj.weight"] = weights[f"{at}mlp.{name}_proj.weight"][units]
        shuffled[f"{at}mlp.down_proj.weight"] = weights[f"{at}mlp.down_proj.weight"][:, units]
        for name in ("q", "k", "v"):
            whole = weights[f"{at}self_attn.{name}_proj.weight"]
            blocks = whole.view(shape.kv_heads, -1, shape.hidden)
            shuffled[f"{at}self_attn.{name}_proj.weight"] = blocks[groups].reshape(whole.shape)
        whole = weights[f"{at}self_attn.o_proj.weight"]
        blocks = whole.view(shape.hidden, shape.kv_heads, -1)
        shuffled[f"{at}self_attn.o_proj.weight"] = blocks[:, groups].reshape(whole.shape)
    return shuffled


def both(first: str, second: str) -> MergeSpec:
    return merge_of("pleas", [(first, 1.0), (second, 1.0)], name="out")


def test_the_best_order_is_the_one_that_was_undone():
    first = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first[order][best_order(first, first[order])], first)


def test_rows_and_columns_are_put_in_order_and_averaged():
    models = tensor([[[1.0, 2.0], [3.0, 4.0]], [[30.0, 40.0], [10.0, 20.0]]])
    rows = {"rows.1": tensor([1, 0])}
    assert pleas(models, torch.ones(2), known=rows).tolist() == [[5.5, 11.0], [16.5, 22.0]]
    columns = {"columns.1": tensor([1, 0])}
    assert pleas(models, tensor([1.0, 3.0]), known=columns).tolist() == [[30.25, 23.0], [15.75, 8.5]]


def test_a_permuted_model_answers_as_before_and_merges_back_to_itself_exactly(job: TinyJob, bench: Bench):
    shape = Shape()
    original = load_file(bench.base / "model.safetensors")
    write_model(bench.root / "shuffled", weights=permuted(original, shape, 5))
    from transformers import AutoModelForCausalLM

    ids = tensor([[1, 40, 41, 42, 60]])
    answers = [
        AutoModelForCausalLM.from_pretrained(bench.root / name, dtype=torch.float32)(input_ids=ids).logits
        for name in ("base", "shuffled")
    ]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-5)
    merged = load_file(run(both("base", "shuffled"), job).models[0].folder / "model.safetensors")
    for name, value in original.items():
        assert torch.equal(merged[name], value)


def test_a_permuted_fine_tune_merges_as_if_it_had_not_been_permuted(
    job: TinyJob, bench: Bench, tmp_path: Path
):
    original = weights_of(Shape(), 0)
    write_model(bench.root / "shuffled", weights=permuted(tuned_from(original, 1), Shape(), 7))
    merged = load_file(run(both("base", "shuffled"), job).models[0].folder / "model.safetensors")
    tuned = load_file(bench.pirate / "model.safetensors")  # the same fine-tune as it was
    for name, value in merged.items():
        torch.testing.assert_close(value, (original[name] + tuned[name]) / 2)


def test_what_was_matched_is_not_matched_again_after_a_crash(job: TinyJob, monkeypatch: pytest.MonkeyPatch):
    first = run(both("base", "pirate"), job)
    whole = (first.models[0].folder / "model.safetensors").read_bytes()
    for record in (job.folder / "merge" / "done").glob("*.json"):
        record.unlink()
    monkeypatch.delattr(lab.merge.aligning, "best_order")
    again = run(both("base", "pirate"), job)
    assert (again.models[0].folder / "model.safetensors").read_bytes() == whole


def test_layers_of_another_build_are_refused(bench: Bench, job: TinyJob):
    weights = {name.replace("gate_proj", "w1"): value for name, value in weights_of(Shape(), 0).items()}
    for name in ("odd", "odd2"):
        write_model(bench.root / name, weights=weights)
    with pytest.raises(BadInput, match="has no gate_proj") as refused:
        check(both("odd", "odd2"), job)
    assert refused.value.field == "method"
