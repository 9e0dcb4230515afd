"""A model folder is used only when its files, configs and shapes hold together; refusals name the spot."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import Bench, Shape, shapes_of, weights_of, write_adapter, write_model, write_weights

from lab.core.errors import BadInput
from lab.models.config import read_adapter_config, read_model_config
from lab.models.inspection import check_adapter_fits, check_model_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: v for key, v in (content | changes).items() if v != "GONE"}))


class TestFacts:
    def test_a_tiny_llama_is_described_from_its_files(self, tiny: Path) -> None:
        facts = check_model_folder(tiny)
        assert (facts.architecture, facts.layers, facts.hidden, facts.vocab) == (
            "LlamaForCausalLM",
            2,
            64,
            259,
        )
        assert facts.parameters == sum(weight.numel() for weight in weights_of(Shape(), 0).values())
        assert (facts.dtype, facts.tied, facts.has_chat_template, facts.context) == ("F32", True, True, 512)
        assert facts.size_bytes == 4 * facts.parameters

    def test_an_adapter_is_described_with_its_base_and_rank(self, bench: Bench) -> None:
        facts = check_model_folder(bench.adapter)
        assert (facts.architecture, facts.base, facts.rank) == ("LoRA adapter", "base", 4)

    def test_every_model_of_the_bench_passes(self, bench: Bench) -> None:
        for folder in (bench.pirate, bench.sums, bench.deep, bench.wide):
            check_model_folder(folder)

    def test_facts_are_json(self, tiny: Path) -> None:
        assert json.loads(json.dumps(check_model_folder(tiny).as_json()))["layers"] == 2

    def test_heads_default_as_in_transformers(self, model: Path) -> None:
        edit(model / "config.json", num_key_value_heads="GONE", head_dim="GONE")
        config = read_model_config(model)
        assert (config.kv_heads, config.head_size) == (4, 16)


CONFIGS = {
    "remote code": ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "auto_map asks to run code"),
    "remote code, nested": ({"text_config": {"auto_map": {"x": "y"}}}, "auto_map asks to run code"),
    "another task": ({"architectures": ["BertForMaskedLM"]}, "causal language models"),
    "no architecture": ({"architectures": "GONE"}, "causal language models"),
    "quantised weights": ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
    "a negative layer count": ({"num_hidden_layers": -2}, "num_hidden_layers is '-2'"),
    "a boolean layer count": ({"num_hidden_layers": True}, "num_hidden_layers is 'True'"),
    "no vocabulary size": ({"vocab_size": "GONE"}, "vocab_size is missing"),
    "another vocabulary size": (
        {"vocab_size": 300},
        r"model\.safetensors, tensor 'model\.embed_tokens\.weight': it is \(259, 64\) but .* \(300, 64\)",
    ),
    "another hidden size": ({"hidden_size": 128}, r"tensor 'model\.embed_tokens\.weight'.*\(259, 128\)"),
    "more layers than weights": ({"num_hidden_layers": 3}, "layer 2 has no weights"),
    "fewer layers than weights": ({"num_hidden_layers": 1}, r"tensor 'model\.layers\.1.*of layer 1"),
    "another intermediate size": ({"intermediate_size": 256}, r"mlp\.\w+_proj\.weight'.*makes it"),
    "other key heads": ({"num_key_value_heads": 4}, r"self_attn\.k_proj\.weight': it is \(32, 64\)"),
    "no head and none tied": ({"tie_word_embeddings": False}, r"'lm_head\.weight': it is missing"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", CONFIGS)
    def test_a_config_that_does_not_fit_is_refused(self, case: str, model: Path) -> None:
        changes, reason = CONFIGS[case]
        edit(model / "config.json", **changes)
        with pytest.raises(BadInput, match=reason):
            check_model_folder(model)

    def test_a_missing_tensor_is_named(self, tmp_path: Path) -> None:
        weights = weights_of(Shape(), 0)
        del weights["model.layers.1.mlp.up_proj.weight"]
        with pytest.raises(BadInput, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight': layer 1 lacks"):
            check_model_folder(write_model(tmp_path / "m", weights=weights))

    def test_a_pickle_beside_the_weights_is_refused(self, model: Path) -> None:
        (model / "training_args.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(BadInput, match=r"training_args\.bin beside"):
            check_model_folder(model)

    def test_a_model_without_tokenizer_is_refused(self, model: Path) -> None:
        (model / "tokenizer.json").unlink()
        with pytest.raises(BadInput, match=r"tokenizer\.json: it is missing"):
            check_model_folder(model)

    def test_a_tokenizer_with_code_is_refused(self, model: Path) -> None:
        edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
        with pytest.raises(BadInput, match=r"tokenizer_config\.json: auto_map"):
            check_model_folder(model)

    def test_a_config_that_is_no_json_is_refused(self, model: Path) -> None:
        (model / "config.json").write_text('{"hidden_size": NaN}')
        with pytest.raises(BadInput, match=r"config\.json: it is not JSON"):
            check_model_folder(model)

    def test_a_folder_without_config_is_refused(self, model: Path) -> None:
        (model / "config.json").unlink()
        with pytest.raises(BadInput, match=r"config\.json: it can't be read"):
            check_model_folder(model)

    def test_a_file_is_no_model(self, model: Path) -> None:
        with pytest.raises(BadInput, match="is a file"):
            check_model_folder(model / "config.json")


class TestAdapters:
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Path:
        return write_adapter(tmp_path / "adapter", base="base")

    def test_an_adapter_fits_the_base_it_was_made_for(self, bench: Bench) -> None:
        check_adapter_fits(bench.adapter, bench.base)

    def test_an_adapter_does_not_fit_a_wider_base(self, bench: Bench) -> None:
        with pytest.raises(BadInput, match=r"it adapts a matrix of \(64, 64\); in wide it is \(128, 128\)"):
            check_adapter_fits(bench.adapter, bench.wide)

    def test_an_adapter_of_layers_that_are_not_there_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        deep = write_adapter(tmp_path / "deep", base="base", shape=Shape(layers=4))
        with pytest.raises(BadInput, match=r"model\.layers\.2\.self_attn\.q_proj, which base doesn't have"):
            check_adapter_fits(deep, bench.base)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
            ({"auto_mapping": {"parent_library": "os"}}, "auto_mapping asks to run code"),
            ({"base_model_name_or_path": None}, "names its base"),
            ({"r": 0}, "r is '0'"),
            ({"lora_alpha": "2"}, "lora_alpha"),
            ({"target_modules": []}, "target_modules"),
            ({"r": 8}, r"rank 4 and 4, adapter_config\.json says 8"),
        ],
    )
    def test_an_adapter_config_that_does_not_fit_is_refused(
        self, changes: dict[str, Any], reason: str, adapter: Path
    ) -> None:
        edit(adapter / "adapter_config.json", **changes)
        with pytest.raises(BadInput, match=reason):
            check_model_folder(adapter)

    def test_a_lone_lora_matrix_is_refused(self, adapter: Path) -> None:
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        (adapter / "adapter_model.safetensors").unlink()
        write_weights(adapter, {name: torch.ones(4, 64)})
        (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
        with pytest.raises(BadInput, match="lora_B matrix is missing"):
            check_model_folder(adapter)

    def test_targets_may_be_one_word(self, adapter: Path) -> None:
        edit(adapter / "adapter_config.json", target_modules="all-linear")
        assert read_adapter_config(adapter).targets == ("all-linear",)


def test_the_tiny_shapes_are_those_of_transformers(tiny: Path) -> None:
    """The hand-written fixture is a real Llama: transformers expects exactly its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny))
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    expected.pop("lm_head.weight")  # tied
    assert expected == shapes_of(Shape())
