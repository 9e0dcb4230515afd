"""Checkpoints beyond a plain dense one: experts, buffers, mixed dtypes, shards of every cut."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_merge import HIDDEN, TinyJob, TinyShelf, tensors_of, write_shards

from lab.core.errors import JobFailed
from lab.merge.check import check
from lab.merge.recipe import read_recipe
from lab.merge.run import run
from lab.ui.mergeheat import heat_rows

HALF = """
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: [{filter: "experts.1.", value: 1.5}, {value: 0.5}]}}
merge_method: linear
parameters: {normalize: false}
"""
EXPERTS = 3


def mixture_of(layers: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a tiny mixture of experts in Mixtral's names: a router and three experts in each layer."""
    tensors = {name: value for name, value in tensors_of(layers, seed=seed).items() if ".mlp." not in name}
    generator = torch.Generator().manual_seed(seed)
    for layer in range(layers):
        stem = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{stem}.gate.weight"] = torch.randn(EXPERTS, HIDDEN, generator=generator)
        for expert in range(EXPERTS):
            for name in ("w1", "w2", "w3"):
                shape = (HIDDEN, 12) if name == "w2" else (12, HIDDEN)
                tensors[f"{stem}.experts.{expert}.{name}.weight"] = torch.randn(*shape, generator=generator)
    return tensors


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def test_a_mixture_of_experts_is_merged_expert_by_expert(shelf: TinyShelf, job: TinyJob):
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": EXPERTS}
    for seed, name in enumerate("ab"):
        shelf.add(name, mixture_of(2, seed), torch.float32, shards=2 - seed, **config)
    spec = read_recipe(HALF, name="out")
    folder = run(spec, job).models[0].folder
    a, b, merged = (everything(place) for place in (shelf.room / "a", shelf.room / "b", folder))
    assert merged.keys() == a.keys()
    for name, value in merged.items():
        share = 1.5 if "experts.1." in name else 0.5
        torch.testing.assert_close(value, 0.5 * a[name] + share * b[name])
    assert json.loads((folder / "config.json").read_text())["num_local_experts"] == EXPERTS
    # The map counts experts as one kind: (0.5 + 1.5 + 0.5) / 3 for b.
    rows = {row.label: row.cells for row in heat_rows(check(spec, shelf), "weight")}
    assert rows["B experts"] == pytest.approx((2.5 / 3, 2.5 / 3))


def test_layers_of_two_mixtures_are_stacked(shelf: TinyShelf, job: TinyJob):
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": EXPERTS}
    for seed, name in enumerate("ab"):
        shelf.add(name, mixture_of(2, seed), torch.float32, **config)
    text = """
    slices:
      - sources: [{model: a, layer_range: [0, 2]}]
      - sources: [{model: b, layer_range: [1, 2]}]
    merge_method: passthrough
    """
    merged = everything(run(read_recipe(text, name="out"), job).models[0].folder)
    name = "block_sparse_moe.experts.2.w3.weight"
    assert torch.equal(
        merged[f"model.layers.2.{name}"], everything(shelf.room / "b")[f"model.layers.1.{name}"]
    )


def with_buffer(seed: int, value: int) -> dict[str, torch.Tensor]:
    return tensors_of(2, seed=seed) | {"model.layers.0.self_attn.table": torch.full((4,), value)}


def add_raw(shelf: TinyShelf, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write a model whose tensors keep their own dtypes."""
    folder = shelf.add(name, tensors)
    (folder / "model.safetensors").unlink()
    write_shards(folder, {key: value.contiguous() for key, value in tensors.items()}, 1)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_buffers_of_whole_numbers_are_copied_where_all_models_agree(
    shelf: TinyShelf, job: TinyJob, method: str
):
    for seed, name in enumerate(("a", "b", "base")):
        add_raw(shelf, name, with_buffer(seed, 1 << 40))
    text = HALF.replace("linear", method) + ("base_model: base\n" if method == "ties" else "")
    merged = everything(run(read_recipe(text, name="out"), job).models[0].folder)
    assert torch.equal(merged["model.layers.0.self_attn.table"], torch.full((4,), 1 << 40))
    add_raw(shelf, "other", with_buffer(4, 7))
    with pytest.raises(JobFailed, match=r"differ in model\.layers\.0\.self_attn\.table"):
        run(read_recipe(text.replace("model: b,", "model: other,"), name="out2"), job)


def test_mixed_dtypes_meet_in_float32_and_each_tensor_in_the_asked_one(shelf: TinyShelf, job: TinyJob):
    first, second = tensors_of(2, seed=0), tensors_of(2, seed=1)
    add_raw(shelf, "a", {k: v.bfloat16() for k, v in first.items()})
    add_raw(shelf, "b", {k: v.half() if v.ndim > 1 else v.bfloat16() for k, v in second.items()})
    plain = everything(run(read_recipe(HALF, name="out"), job).models[0].folder)
    assert {str(v.dtype) for v in plain.values() if v.ndim > 1} == {"torch.float32"}
    assert {str(v.dtype) for v in plain.values() if v.ndim == 1} == {"torch.bfloat16"}
    name = "model.layers.0.mlp.up_proj.weight"
    expected = 0.5 * first[name].bfloat16().float() + 0.5 * second[name].half().float()
    torch.testing.assert_close(plain[name], expected)
    asked = everything(
        run(read_recipe(HALF + "dtype: float32\nout_dtype: bfloat16\n", name="out2"), job).models[0].folder
    )
    assert {str(value.dtype) for value in asked.values()} == {"torch.bfloat16"}
    assert torch.equal(asked[name], expected.bfloat16())
