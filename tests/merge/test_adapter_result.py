"""Adapters merged as adapters: exact sums, cuts to a rank, and peft's own merges as the second opinion."""

import json
from math import sqrt
from pathlib import Path

import pytest
import tiny_models
import torch
from fakes import FakeJob, FakeShelf
from safetensors.torch import load_file, save_file

from lab.core.errors import BadInput, JobFailed
from lab.merge.check import check
from lab.merge.lowrank import Factors, cut_matrix, cut_product, weighted_stack
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.registry import MergeMethod, knobs_of, merge_methods
from lab.merge.run import run
from lab.merge.spec import MergeSpec, merge_of
from lab.models.inspection import check_adapter_fits, check_model_folder

SHAPES = tiny_models.shapes_of(tiny_models.Shape())
PREFIX = "base_model.model."


def add_lora(
    room: Path, name: str, targets: list[str], *, rank: int, seed: int, base: str = "base", **settings
):
    """Write a LoRA on every module whose name ends with one of the targets."""
    folder = room / name
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for full, (rows, *rest) in SHAPES.items():
        module = full.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in targets:
            tensors[f"{PREFIX}{module}.lora_A.weight"] = 0.2 * torch.randn(rank, rest[0], generator=generator)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = 0.2 * torch.randn(rows, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 3 * rank,
        "target_modules": targets,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))


def changes_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each matrix, the plain way."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    rank = settings["r"]
    scale = settings["lora_alpha"] / (sqrt(rank) if settings.get("use_rslora") else rank)
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name.removeprefix(PREFIX).replace("lora_A.", ""): scale
        * tensors[name.replace("lora_A", "lora_B")]
        @ down
        for name, down in tensors.items()
        if "lora_A" in name
    }


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Return a base and three adapters: of other ranks, targets, and scales."""
    room = tmp_path / "models"
    tiny_models.write_model(room / "base")
    add_lora(room, "one", ["q_proj", "v_proj"], rank=4, seed=1)
    add_lora(room, "two", ["q_proj", "down_proj"], rank=2, seed=2, use_rslora=True)
    add_lora(room, "three", ["q_proj", "v_proj"], rank=4, seed=3)
    return room


@pytest.fixture
def job(room: Path, tmp_path: Path) -> FakeJob:
    folder = tmp_path / "job"
    folder.mkdir()
    return FakeJob(room, folder=folder)


def spec_of(method: str, models: list[tuple[str, float]], **fields) -> MergeSpec:
    base = "base" if merge_methods[method].base == "delta" else None
    spec = merge_of(method, models, base=base, name="out", knobs=fields.pop("knobs", None))
    return MergeSpec.model_validate(spec.model_dump(mode="json") | {"result": "adapter"} | fields)


def test_a_sum_of_adapters_is_stacked_exactly(room: Path, job: FakeJob):
    [new] = run(spec_of("task_arithmetic", [("one", 0.5), ("two", -2.0)]), job).models
    one, two, merged = changes_of(room / "one"), changes_of(room / "two"), changes_of(new.folder)
    assert set(merged) == set(one) | set(two)
    for name, change in merged.items():
        expected = 0.5 * one.get(name, torch.zeros(())) - 2.0 * two.get(name, torch.zeros(()))
        torch.testing.assert_close(change, expected.expand(change.shape), atol=1e-6, rtol=1e-5)
    assert new.facts["rank"] == 6
    assert new.facts["relative_error"] == 0.0
    assert new.parents == ("base", "one", "two")
    assert new.kind == "adapter"


def test_the_average_divides_by_the_weights_and_leaves_the_base_out(room: Path, job: FakeJob):
    [new] = run(spec_of("linear", [("one", 3.0), ("three", 1.0)]), job).models
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = 0.75 * changes_of(room / "one")[name] + 0.25 * changes_of(room / "three")[name]
    torch.testing.assert_close(changes_of(new.folder)[name], expected, atol=1e-6, rtol=1e-5)


def test_a_smaller_rank_is_the_best_there_is_and_says_what_it_lost(room: Path, job: FakeJob):
    spec = spec_of("linear", [("one", 1.0), ("three", 1.0)], rank=3)
    [new] = run(spec, job).models
    name = "model.layers.1.self_attn.v_proj.weight"
    exact = (changes_of(room / "one")[name] + changes_of(room / "three")[name]) / 2
    u, values, v = torch.linalg.svd(exact)
    torch.testing.assert_close(
        changes_of(new.folder)[name], u[:, :3] * values[:3] @ v[:3], atol=1e-5, rtol=1e-4
    )
    whole, lost = 0.0, 0.0
    for key, kept in changes_of(new.folder).items():
        mean = (changes_of(room / "one")[key] + changes_of(room / "three")[key]) / 2
        whole, lost = whole + mean.square().sum().item(), lost + (mean - kept).square().sum().item()
    assert new.facts["relative_error"] == pytest.approx(sqrt(lost / whole), rel=1e-4)
    assert "relative error" in job.of("note")[-1]["text"]
    assert "relative error" in (new.folder / "README.md").read_text()


def test_the_result_is_an_adapter_that_the_lab_takes_again(room: Path, job: FakeJob):
    [new] = run(spec_of("ties", [("one", 1.0), ("two", 1.0)], rank=5, knobs={"density": 0.5}), job).models
    facts = check_model_folder(new.folder)
    check_adapter_fits(new.folder, room / "base")
    assert (facts.rank, facts.base) == (5, "base")
    config = json.loads((new.folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]


def test_modules_that_only_some_layers_adapt_are_named_in_full(room: Path, job: FakeJob):
    add_lora(room, "top", ["q_proj"], rank=2, seed=5)
    file = room / "top" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if ".1." in name}, file)
    [new] = run(spec_of("linear", [("top", 1.0)]), job).models
    config = json.loads((new.folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("method", "models", "fields", "field", "words"),
    [
        ("linear", ["one", "base"], {}, "models.1.model", "base is a full model"),
        ("linear", ["one", "stranger"], {}, "models.1.model", "is an adapter of other"),
        ("linear", ["one", "headed"], {}, "models.1.model", "carries whole tensors"),
        (
            "slerp",
            ["one", "three"],
            {"base_model": "one", "parameters": {"t": 0.5}},
            "method",
            "whole models",
        ),
        ("ties", ["one", "three"], {"base_model": "other"}, "base_model", "is an adapter of base"),
    ],
)
def test_what_can_not_become_an_adapter_is_refused_in_words(
    room: Path, method: str, models: list[str], fields: dict, field: str, words: str
):
    tiny_models.write_model(room / "other", seed=5)
    add_lora(room, "stranger", ["q_proj"], rank=2, seed=4, base="other")
    add_lora(room, "headed", ["q_proj"], rank=2, seed=4)
    file = room / "headed" / "adapter_model.safetensors"
    save_file(load_file(file) | {f"{PREFIX}model.norm.weight": torch.ones(64)}, file)
    raw = {
        "name": "out",
        "method": method,
        "result": "adapter",
        "models": [
            {"model": name, "parameters": {} if method == "slerp" else {"weight": 1.0}} for name in models
        ],
    }
    with pytest.raises(BadInput, match=words) as refused:
        check(MergeSpec.model_validate(raw | fields), FakeShelf(room))
    assert refused.value.field == field


def test_the_disk_must_hold_the_adapter(room: Path):
    with pytest.raises(BadInput, match="free"):
        check(spec_of("linear", [("one", 1.0)]), FakeShelf(room, free_disk=1000))


def test_a_factor_that_is_not_finite_fails_the_job(room: Path, job: FakeJob):
    file = room / "one" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(JobFailed, match="NaN"):
        run(spec_of("linear", [("one", 1.0)]), job)


def test_result_and_rank_are_keys_of_the_recipe_only_where_an_adapter_comes_out():
    spec = spec_of("linear", [("one", 1.0)], rank=7)
    text = write_recipe(spec)
    assert read_recipe(text, name="out") == spec
    plain = write_recipe(merge_of("linear", [("one", 1.0)], name="out"))
    assert "result" not in plain
    assert "rank" not in plain


# The mathematics of factors -----------------------------------------------------------------------


def test_cutting_a_product_never_needs_the_product():
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(30, 6, generator=generator), torch.randn(6, 20, generator=generator)
    cut = cut_product(Factors(up, down, 0.0, 0.0), 2)
    u, values, v = torch.linalg.svd(up @ down)
    torch.testing.assert_close(cut.up @ cut.down, u[:, :2] * values[:2] @ v[:2], atol=1e-4, rtol=1e-4)
    assert cut.lost == pytest.approx(values[2:].square().sum().item(), rel=1e-4)


def test_the_norm_of_a_stack_is_that_of_its_product():
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0, 4.0]])
    assert weighted_stack([(up, down)], [2.0]).whole == pytest.approx(4 * 5 * 25)


def test_a_large_matrix_is_cut_nearly_as_well_as_the_best(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(120, 90, generator=generator) @ torch.diag(0.9 ** torch.arange(90.0))
    best = cut_matrix(change, 4, torch.Generator().manual_seed(2))
    monkeypatch.setattr("lab.merge.lowrank.EXACT_SIDE", 8)
    found = cut_matrix(change, 4, torch.Generator().manual_seed(2))
    assert found.lost == pytest.approx((change - found.up @ found.down).square().sum().item(), rel=1e-3)
    assert 0.9999 * best.lost <= found.lost <= 1.0001 * best.lost


# peft as the second opinion -----------------------------------------------------------------------


@pytest.fixture
def peft_model(room: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(room / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, room / "one", adapter_name="one")
    for name in ("two", "three"):
        model.load_adapter(room / name, adapter_name=name)
    return model


def changes_in(model, adapter: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(PREFIX) + ".weight": module.get_delta_weight(adapter)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight") and adapter in module.lora_A
    }


def masks_for(shape: torch.Size, density: float) -> torch.Tensor:
    return torch.bernoulli(torch.full(shape, density), generator=torch.Generator().manual_seed(shape.numel()))


def dare_with_fixed_masks(deltas: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Drop and rescale as DARE does, by masks that both sides are fed."""
    kept = deltas * torch.stack([masks_for(delta.shape, 0.5) for delta in deltas]) / 0.5
    return torch.einsum("m,m...->...", weights, kept)


@pytest.fixture
def fed_dare(monkeypatch: pytest.MonkeyPatch):
    knobs, per_model = knobs_of(dare_with_fixed_masks)
    method = MergeMethod(
        "fed_dare", "a test", "delta", (1, 8), "", dare_with_fixed_masks, knobs, per_model, base="delta"
    )
    merge_methods["ties"]  # so that the registry is full
    monkeypatch.setitem(merge_methods._things, "fed_dare", method)
    monkeypatch.setattr(
        "peft.utils.merge_utils.random_pruning",
        lambda tensor, density, rescale: tensor * masks_for(tensor.shape, density) / density,
    )


@pytest.mark.parametrize(
    ("method", "ours", "kind", "theirs", "models"),
    [
        ("task_arithmetic", {}, "cat", {}, [("one", 0.7), ("two", -0.4)]),
        ("task_arithmetic", {"rank": 3}, "svd", {"svd_rank": 3}, [("one", 0.7), ("two", -0.4)]),
        ("ties", {"rank": 4, "knobs": {"density": 0.4}}, "ties_svd", {"svd_rank": 4, "density": 0.4},
         [("one", 1.0), ("three", 1.0)]),
        ("fed_dare", {"rank": 4}, "dare_linear_svd", {"svd_rank": 4, "density": 0.5},
         [("one", 0.7), ("three", 0.3)]),
    ],
)  # fmt: skip
def test_peft_merges_the_same(fed_dare, peft_model, room, job, method, ours, kind, theirs, models):
    names, weights = [name for name, _ in models], [weight for _, weight in models]
    peft_model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **theirs)
    [new] = run(spec_of(method, models, **ours), job).models
    mine, expected = changes_of(new.folder), changes_in(peft_model, "merged")
    assert set(mine) <= set(expected)
    for name, change in mine.items():
        assert (change - expected[name]).abs().max() < 1e-5, name


def test_peft_loads_the_result_and_the_model_answers_by_it(peft_model, room: Path, job: FakeJob):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    [new] = run(spec_of("task_arithmetic", [("one", 0.7), ("two", -0.4)]), job).models
    prompt = torch.arange(5, 25)[None]
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(room / "base", dtype=torch.float32), new.folder
    )
    peft_model.add_weighted_adapter(["one", "two"], [0.7, -0.4], "both", combination_type="cat")
    peft_model.set_adapter("both")
    with torch.no_grad():
        answer, expected = loaded(prompt).logits, peft_model(prompt).logits
        with loaded.disable_adapter():
            plain = loaded(prompt).logits
    torch.testing.assert_close(answer, expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(answer, plain, atol=1e-2)
