"""Adapters as inputs: folded in tensor by tensor, or refused in words."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_merge import HIDDEN, TinyJob, TinyShelf

import lab.merge.reading
from lab.core.errors import BadInput
from lab.merge.check import check
from lab.merge.run import run
from lab.merge.spec import merge_of

MODULE = "model.layers.1.self_attn.q_proj"


def add_adapter(shelf: TinyShelf, name: str, base: str = "base", seed: int = 9, **settings: object) -> dict:
    """Write a LoRA of rank 2 on one projection, and return its two matrices."""
    folder = shelf.room / name
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(2, HIDDEN, generator=generator)
    up = torch.randn(HIDDEN, 2, generator=generator)
    stem = f"base_model.model.{MODULE}"
    save_file(
        {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, folder / "adapter_model.safetensors"
    )
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return {"down": down, "up": up}


def weight_of(folder: Path, name: str = f"{MODULE}.weight") -> torch.Tensor:
    return next(
        tensors[name] for file in folder.glob("*.safetensors") if name in (tensors := load_file(file))
    )


@pytest.mark.parametrize("chunk", [1 << 18, 13])
def test_an_adapter_counts_as_its_base_plus_the_scaled_product(
    family: TinyShelf, job: TinyJob, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr(lab.merge.reading, "CHUNK", chunk)
    lora = add_adapter(family, "lora")
    spec = merge_of("linear", [("lora", 1.0)], name="out", dtype="float32")
    folder = run(spec, job).models[0].folder
    expected = weight_of(family.model("base")).float() + 3.0 * lora["up"] @ lora["down"]
    torch.testing.assert_close(weight_of(folder), expected)
    other = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weight_of(folder, other), weight_of(family.model("base"), other).float())


def test_two_adapters_of_one_base_merge_by_their_deltas(family: TinyShelf, job: TinyJob):
    one, two = add_adapter(family, "one", seed=1), add_adapter(family, "two", seed=2)
    spec = merge_of("task_arithmetic", [("one", 1.0), ("two", 0.5)], base="base", name="out", dtype="float32")
    folder = run(spec, job).models[0].folder
    change = 3.0 * one["up"] @ one["down"] + 1.5 * two["up"] @ two["down"]
    torch.testing.assert_close(weight_of(folder), weight_of(family.model("base")).float() + change)


def test_rank_stabilised_scale_and_alpha_pattern_count(family: TinyShelf, job: TinyJob):
    lora = add_adapter(family, "lora", use_rslora=True, alpha_pattern={"q_proj": 4})
    folder = run(merge_of("linear", [("lora", 1.0)], name="out", dtype="float32"), job).models[0].folder
    expected = weight_of(family.model("base")).float() + 4 / 2**0.5 * lora["up"] @ lora["down"]
    torch.testing.assert_close(weight_of(folder), expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "alpha_pattern"),
        ({"base_model_name_or_path": "gone"}, "which is not in the lab"),
        ({"base_model_name_or_path": "first"}, "which is an adapter itself"),
    ],
)
def test_an_adapter_that_is_no_plain_sum_is_refused_in_words(family: TinyShelf, settings: dict, words: str):
    add_adapter(family, "first")
    add_adapter(family, "lora", **settings)
    with pytest.raises(BadInput, match=words) as refused:
        check(merge_of("linear", [("a", 1.0), ("lora", 1.0)], name="out"), family)
    assert refused.value.field == "models.1.model"


def test_an_adapter_that_does_not_fit_its_base_names_the_tensor(family: TinyShelf):
    add_adapter(family, "lora")
    file = family.model("lora") / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(
        {
            name: torch.cat([value, value], dim=1) if "lora_A" in name else value
            for name, value in tensors.items()
        },
        file,
    )
    with pytest.raises(BadInput, match=r"lora_A.*it changes a tensor of \(8, 16\); in base it is \(8, 8\)"):
        check(merge_of("linear", [("lora", 1.0)], name="out"), family)
