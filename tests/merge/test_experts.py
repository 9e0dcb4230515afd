"""Dense models as a mixture of experts: transformers' classes and mergekit-moe as the second opinions."""

import json
import subprocess
from pathlib import Path

import pytest
import tiny_models
import torch
import yaml
from fakes import FakeJob, FakeShelf
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lab.core.errors import BadInput, LabError, UnknownName
from lab.merge.expertcheck import check
from lab.merge.expertrun import run
from lab.merge.expertspec import ExpertsSpec, is_experts, read_experts, write_experts
from lab.merge.gates import degenerate_layers, random_rows, unit
from lab.models.inspection import check_model_folder

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".mergekit-venv" / "bin" / "python"
PROMPTS = {"base": ["abc", "what is this?"], "pirate": ["arr matey", "ahoy"], "sums": ["1 + 1 =", "seven"]}


def write_family(room: Path, family: str) -> None:
    """Write a base and two fine-tunes of a family, in tiny_models' sizes."""
    weights = tiny_models.weights_of(tiny_models.Shape(), 0)
    if family != "llama":
        heads = {"q": 64, "k": 32, "v": 32}
        for layer in range(2):
            at = f"model.layers.{layer}.self_attn."
            if family == "qwen2":
                weights |= {f"{at}{part}_proj.bias": 0.1 * torch.ones(size) for part, size in heads.items()}
            else:
                weights |= {f"{at}{part}_norm.weight": torch.ones(16) for part in "qk"}
    for seed, name in enumerate(("base", "pirate", "sums")):
        tuned = tiny_models.tuned_from(weights, seed, 0.05) if seed else weights
        folder = tiny_models.write_model(room / name, weights=tuned)
        config = json.loads((folder / "config.json").read_text())
        architecture = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
        config |= {"model_type": family, "architectures": [f"{architecture}ForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))


def raw_of(names: tuple[str, ...] = ("pirate", "sums"), **fields) -> dict:
    experts = [{"source_model": name, "positive_prompts": PROMPTS[name]} for name in names]
    return {"base_model": "base", "experts": experts, "gate_mode": "cheap_embed"} | fields


def spec_of(names: tuple[str, ...] = ("pirate", "sums"), **fields) -> ExpertsSpec:
    return ExpertsSpec.model_validate(raw_of(names, **fields) | {"name": "out"})


def shared(name: str = "base", scale: float = 1.0) -> list[dict]:
    return [{"source_model": name, "positive_prompts": PROMPTS[name], "residual_scale": scale}]


def made(room: Path, spec: ExpertsSpec, work: Path) -> tuple[Path, FakeJob]:
    work.mkdir()
    job = FakeJob(room, folder=work)
    return run(spec, job).models[0].folder, job


FAMILIES = [
    ("llama", {}, "MixtralForCausalLM"),
    ("llama", {"shared_experts": shared("base", 0.0)}, "Qwen2MoeForCausalLM"),
    ("qwen2", {"shared_experts": shared("base", 0.0)}, "Qwen2MoeForCausalLM"),
    ("qwen3", {}, "Qwen3MoeForCausalLM"),
]


@pytest.mark.parametrize(("family", "fields", "architecture"), FAMILIES)
def test_equal_experts_answer_as_the_dense_model_does(
    tmp_path: Path, family: str, fields: dict, architecture: str
):
    from transformers import AutoModelForCausalLM

    write_family(tmp_path, family)
    same = {"i_understand_this_is_not_useful_without_training": True, "gate_mode": "random"}
    folder, _ = made(tmp_path, spec_of(("base",) * 4, **same, **fields), tmp_path / "job")
    mixture = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert type(mixture).__name__ == architecture
    prompt = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(mixture(prompt).logits, dense(prompt).logits, atol=2e-5, rtol=1e-5)
    facts = check_model_folder(folder)
    assert (facts.architecture, facts.layers) == (architecture, 2)
    assert facts.parameters > 2 * sum(tensor.numel() for tensor in dense.parameters())


def test_every_weight_is_where_transformers_looks_for_it(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    write_family(tmp_path, "llama")
    folder, _ = made(tmp_path, spec_of(), tmp_path / "job")
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sums = load_file(tmp_path / "sums" / "model.safetensors")
    state = model.state_dict()
    assert torch.equal(
        state["model.layers.1.mlp.experts.down_proj"][1], sums["model.layers.1.mlp.down_proj.weight"]
    )
    assert torch.equal(
        state["model.layers.1.mlp.experts.gate_up_proj"][1],
        torch.cat([sums[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up")]),
    )
    base = load_file(tmp_path / "base" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(state[name], base[name])


def test_hidden_is_the_last_token_s_state_at_each_layer_and_hidden_avg_the_mean(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_family(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")

    def states(prompt: str) -> torch.Tensor:
        tokens = torch.tensor(
            [tokenizer(tokenizer.bos_token + prompt, add_special_tokens=False)["input_ids"]]
        )
        with torch.no_grad():
            return torch.stack(model(tokens, output_hidden_states=True).hidden_states[:-1])[:, 0]

    for mode, pick in (("hidden", lambda s: s[:, -1]), ("hidden_avg", lambda s: s.mean(1))):
        spec = spec_of(gate_mode=mode)
        spec = spec.model_copy(
            update={
                "experts": (spec.experts[0].model_copy(update={"negative_prompts": ("no",)}), spec.experts[1])
            }
        )
        folder, _ = made(tmp_path, spec, tmp_path / mode)
        positive = sum(pick(states(prompt)) for prompt in PROMPTS["pirate"]) / 2
        expected = unit(positive - pick(states("no")))
        tensors = load_file(folder / "model.safetensors")
        for layer in range(2):
            row = tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"][0]
            torch.testing.assert_close(row, expected[layer], atol=1e-5, rtol=1e-4)


def test_noise_and_scale_change_an_expert_and_nothing_else(tmp_path: Path):
    write_family(tmp_path, "llama")
    raw = raw_of(seed=3)
    raw["experts"][0] |= {"noise_scale": 0.1, "residual_scale": 0.5}
    spec = ExpertsSpec.model_validate(raw | {"name": "out"})
    folder, _ = made(tmp_path, spec, tmp_path / "job")
    again, _ = made(tmp_path, spec, tmp_path / "again")
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    tensors, pirate = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "pirate" / "model.safetensors"),
    )
    stem = "model.layers.0.block_sparse_moe.experts"
    down = tensors[f"{stem}.0.w2.weight"] / 0.5 - pirate["model.layers.0.mlp.down_proj.weight"]
    assert down.std().item() == pytest.approx(0.1, rel=0.05)
    up = tensors[f"{stem}.0.w3.weight"] - pirate["model.layers.0.mlp.up_proj.weight"]
    assert up.std().item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(up[:64], down.T[:64])
    sums = load_file(tmp_path / "sums" / "model.safetensors")
    assert torch.equal(tensors[f"{stem}.1.w2.weight"], sums["model.layers.0.mlp.down_proj.weight"])


def test_prompts_too_alike_are_warned_of(tmp_path: Path):
    write_family(tmp_path, "llama")
    raw = raw_of()
    raw["experts"][0]["positive_prompts"] = ["aaaaaaaab"]
    raw["experts"][1]["positive_prompts"] = ["aaaaaaaac"]
    _, job = made(tmp_path, ExpertsSpec.model_validate(raw | {"name": "out"}), tmp_path / "job")
    assert any("Degenerate routing in all layers" in note["text"] for note in job.of("note"))


def test_an_adapter_can_be_an_expert(tmp_path: Path):
    write_family(tmp_path, "llama")
    tiny_models.write_adapter(tmp_path / "lora", base="base")
    folder, _ = made(
        tmp_path,
        ExpertsSpec.model_validate(
            {
                "name": "out", "base_model": "lora", "gate_mode": "random",
                "experts": [{"source_model": name} for name in ("lora", "sums")],
            }
        ),
        tmp_path / "job",
    )  # fmt: skip
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(
        load_file(folder / "model.safetensors")[name],
        load_file(tmp_path / "base" / "model.safetensors")[name],
    )


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"experts_per_token": 3}, "a token passes 3"),
        ({"experts": [{"source_model": "sums"}, {"source_model": "pirate"}]}, "no positive_prompts"),
        (
            {"experts": [{"source_model": name, "positive_prompts": ["x"]} for name in ("sums", "pirate")]},
            "prompts of all experts are the same",
        ),
        (
            {"experts": [{"source_model": "sums", "positive_prompts": [word]} for word in "xy"]},
            "All experts are sums",
        ),
        ({"shared_experts": [{"source_model": "sums"}]}, "no positive_prompts"),
        ({"gate_mode": "learned"}, "gate_mode"),
    ],
)
def test_experts_that_can_not_be_told_apart_are_refused(fields: dict, words: str):
    with pytest.raises((ValidationError, LabError), match=words):
        spec_of(**fields)


def test_what_is_of_no_use_is_made_where_somebody_says_so():
    same = [{"source_model": "sums", "positive_prompts": ["x"]}] * 2
    text = json.dumps(raw_of(experts=same))  # JSON is YAML
    with pytest.raises((ValidationError, LabError)):
        read_experts(text, name="out")
    assert len(read_experts(text, name="out", untrained=True).experts) == 2


@pytest.mark.parametrize(
    ("family", "fields", "field", "words"),
    [
        ("qwen2", {}, "shared_experts", "exactly one"),
        ("qwen3", {"shared_experts": shared()}, "architecture", "can't become qwen2_moe"),
        ("llama", {"architecture": "qwen3_moe"}, "architecture", "llama models can't become"),
        ("llama", {"base_model": "wide"}, "experts.0.source_model", "pirate has the width 64, wide 128"),
        ("llama", {"base_model": "gone"}, "base_model", "gone"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_their_field(
    tmp_path: Path, family: str, fields: dict, field: str, words: str
):
    write_family(tmp_path, family)
    tiny_models.write_model(tmp_path / "wide", shape=tiny_models.Shape(hidden=128))
    with pytest.raises(BadInput, match=words) as refused:
        check(spec_of(**fields), FakeShelf(tmp_path))
    assert refused.value.field == field


def test_experts_of_other_sizes_are_refused(tmp_path: Path):
    write_family(tmp_path, "llama")
    folder = tmp_path / "sums"
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.mlp."
        for part in ("gate", "up"):
            tensors[f"{at}{part}_proj.weight"] = tensors[f"{at}{part}_proj.weight"][:64].contiguous()
        tensors[f"{at}down_proj.weight"] = tensors[f"{at}down_proj.weight"][:, :64].contiguous()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(BadInput, match="64 wide"):
        check(spec_of(), FakeShelf(tmp_path))


def test_the_disk_must_hold_the_mixture(tmp_path: Path):
    write_family(tmp_path, "llama")
    with pytest.raises(BadInput, match="free"):
        check(spec_of(), FakeShelf(tmp_path, free_disk=1000))


# The recipe ---------------------------------------------------------------------------------------


def test_a_recipe_is_read_as_mergekit_has_it_and_written_back():
    text = yaml.safe_dump(
        raw_of(gate_mode="hidden", architecture="Qwen MoE", dtype="bfloat16", shared_experts=shared())
    )
    assert is_experts(text)
    spec = read_experts(text, name="out")
    assert spec.architecture == "qwen2_moe"
    assert read_experts(write_experts(spec), name="out") == spec
    assert not is_experts("models: []")
    assert not is_experts("{")


def test_an_unknown_key_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="gate_mode"):
        read_experts(yaml.safe_dump(raw_of() | {"gate_mod": "random"}), name="out")


def test_odd_numbers_of_experts_are_told():
    told: list[str] = []
    read_experts(yaml.safe_dump(raw_of(("base", "pirate", "sums"))), name="out", tell=told.append)
    assert "no power of two" in told[0]


# Rows of the routers ------------------------------------------------------------------------------


def test_orthogonal_rows_are_healthy_and_equal_ones_degenerate():
    rows = torch.stack([torch.eye(2, 4), torch.ones(2, 4)])
    assert degenerate_layers(rows) == [1]


def test_uniform_rows_stay_within_one_over_the_root_of_the_width():
    rows = random_rows((3, 4, 64), "uniform_random", 5)
    assert rows.abs().max() <= 1 / 8
    assert torch.equal(rows, random_rows((3, 4, 64), "uniform_random", 5))


# mergekit-moe -------------------------------------------------------------------------------------


def fused(tensors: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """Return our tensors as mergekit 0.1.5 writes them: most experts in one block a layer."""
    if layout == "qwen2_moe":
        return tensors
    block, gate, down, up = (
        ("block_sparse_moe", "w1", "w2", "w3")
        if layout == "mixtral"
        else ("mlp", "gate_proj", "down_proj", "up_proj")
    )
    result = {name.replace(block, "mlp"): value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}.{block}.experts"
        part = lambda e, name, at=at: tensors[f"{at}.{e}.{name}.weight"]  # noqa: E731
        to = f"model.layers.{layer}.mlp.experts"
        result[f"{to}.gate_up_proj"] = torch.stack(
            [torch.cat([part(e, gate), part(e, up)]) for e in range(2)]
        )
        result[f"{to}.down_proj"] = torch.stack([part(e, down) for e in range(2)])
    return result


CASES = [
    ("llama", "mixtral", {"gate_mode": "hidden"}),
    ("llama", "mixtral", {"gate_mode": "cheap_embed", "dtype": "bfloat16"}),
    ("llama", "mixtral", {"gate_mode": "random"}),
    ("llama", "qwen2_moe", {"gate_mode": "uniform_random", "shared_experts": shared("base", 0.1)}),
    ("qwen2", "qwen2_moe", {"gate_mode": "hidden_avg", "shared_experts": shared("base", 0.1)}),
    ("qwen3", "qwen3_moe", {"gate_mode": "hidden"}),
]


@pytest.fixture(scope="module")
def mergekit_s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mergekit-moe makes of every case, in folders by number, and the models it was made from."""
    if not PROGRAM.exists():
        pytest.skip("make check-mergekit makes mergekit's environment")
    room = tmp_path_factory.mktemp("mergekit-moe")
    cases = []
    for number, (family, _, fields) in enumerate(CASES):
        if not (room / family).exists():
            write_family(room / family, family)
        config = raw_of(**fields)
        config["base_model"] = str(room / family / "base")
        for expert in (*config["experts"], *config.get("shared_experts", ())):
            expert["source_model"] = str(room / family / expert["source_model"])
            # mergekit's mean counts padding: prompts of one length have none.
            expert["positive_prompts"] = [prompt[:3] for prompt in expert["positive_prompts"]]
        cases.append({"config": config, "out": str(room / str(number)), "seed": 7})
    (room / "cases.json").write_text(json.dumps(cases))
    subprocess.run([PROGRAM, Path(__file__).parent / "mergekit_moe_says.py", room], check=True, timeout=600)
    return room


@pytest.mark.mergekit
@pytest.mark.parametrize("number", range(len(CASES)))
def test_mergekit_makes_the_same_mixture(number: int, mergekit_s: Path, tmp_path: Path):
    config = json.loads((mergekit_s / "cases.json").read_text())[number]["config"]
    spec = ExpertsSpec.model_validate(config | {"name": "out", "seed": 7})
    folder, _ = made(mergekit_s, spec, tmp_path / "job")
    mine = fused(load_file(folder / "model.safetensors"), CASES[number][1])
    theirs = {}
    for file in (mergekit_s / str(number)).glob("*.safetensors"):
        theirs |= load_file(file)
    if "lm_head.weight" in theirs and "lm_head.weight" not in mine:
        del theirs["lm_head.weight"]  # mergekit writes a tied head a second time
    assert set(mine) == set(theirs)
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype, name
        torch.testing.assert_close(
            tensor, theirs[name], atol=1e-5, rtol=1e-5 if tensor.dtype == torch.float32 else 1e-2
        )


# What becomes of a mixture ------------------------------------------------------------------------


def test_a_mixture_is_imported_like_any_model_and_merged_with_another(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    from lab.merge.recipe import read_recipe
    from lab.merge.run import run as merge
    from lab.models.importing import run as import_model
    from lab.models.spec import ImportSpec

    write_family(tmp_path, "llama")
    for name, order in (("one", ("pirate", "sums")), ("two", ("sums", "pirate"))):
        folder, _ = made(tmp_path, spec_of(order), tmp_path / f"job-{name}")
        work = tmp_path / f"import-{name}"
        work.mkdir()
        job = FakeJob(tmp_path, folder=work)
        taken = import_model(ImportSpec(path=str(folder), name=name), job).models[0].folder
        taken.rename(tmp_path / name)
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("one", "two")]
    spec = read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models}), name="mean")
    (tmp_path / "job").mkdir()
    folder = merge(spec, FakeJob(tmp_path, folder=tmp_path / "job")).models[0].folder
    mean = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    at = "model.layers.1.block_sparse_moe.experts.0.w2.weight"
    torch.testing.assert_close(
        mean["model.layers.1.mlp.experts.down_proj"][0], (one[at] + two[at]) / 2, atol=1e-6, rtol=0
    )
