"""Before a model is taken in, its tensors are compared with those of transformers' class."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import Shape, weights_of, write_model, write_weights

from lab.core.errors import BadInput
from lab.models.architecture import check_architecture
from lab.models.headers import read_headers


def test_a_real_llama_passes(tiny: Path) -> None:
    check_architecture(tiny)


def test_a_family_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    edit(folder, model_type="llamma")
    with pytest.raises(BadInput, match="transformers can't build"):
        check_architecture(folder)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    edit(folder, attention_bias=True)
    with pytest.raises(BadInput, match=r"q_proj\.bias' is missing"):
        check_architecture(folder)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    weights = {**weights_of(Shape(), 0), "model.norm.weight": torch.ones(65)}
    write_weights(folder, weights)
    assert read_headers(folder)["model.norm.weight"].shape == (65,)
    with pytest.raises(BadInput, match=r"tensor 'model\.norm\.weight': it is \(65,\)"):
        check_architecture(folder)


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


MIXTURE = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}


def write_mixture(folder: Path) -> dict[str, torch.Tensor]:
    """Write a tiny Mixtral as its files are: an expert's matrices one by one, under their old names."""
    write_model(folder)
    edit(folder, **MIXTURE)
    shape = Shape()
    weights = {name: weight for name, weight in weights_of(shape, 0).items() if ".mlp." not in name}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}.block_sparse_moe"
        weights[f"{at}.gate.weight"] = torch.zeros(2, shape.hidden)
        for expert in range(2):
            for part in ("w1", "w3"):
                weights[f"{at}.experts.{expert}.{part}.weight"] = torch.zeros(
                    shape.intermediate, shape.hidden
                )
            weights[f"{at}.experts.{expert}.w2.weight"] = torch.zeros(shape.hidden, shape.intermediate)
    write_weights(folder, weights)
    return weights


def test_a_mixture_of_experts_passes_though_its_files_have_a_matrix_for_each_expert(tmp_path: Path) -> None:
    write_mixture(tmp_path / "m")
    check_architecture(tmp_path / "m")


def test_an_expert_that_is_missing_is_noticed(tmp_path: Path) -> None:
    weights = write_mixture(tmp_path / "m")
    del weights["model.layers.1.block_sparse_moe.experts.1.w3.weight"]
    write_weights(tmp_path / "m", weights)
    with pytest.raises(BadInput, match=r"there are 3 tensors like 'model\.layers\.1\.block_sparse_moe"):
        check_architecture(tmp_path / "m")


def test_a_mixture_without_its_gate_is_refused(tmp_path: Path) -> None:
    weights = write_mixture(tmp_path / "m")
    del weights["model.layers.0.block_sparse_moe.gate.weight"]
    write_weights(tmp_path / "m", weights)
    with pytest.raises(BadInput, match=r"layers\.0\.mlp\.gate\.weight' is missing"):
        check_architecture(tmp_path / "m")
