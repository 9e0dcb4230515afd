"""Tiny models in Hugging Face layout, written by hand in milliseconds: no transformers import needed.

A byte-level tokenizer (256 bytes and three marks), a ChatML template with pad = eos = <|im_end|> like
SmolLM2's, and a Llama of hidden 64 x 2 layers. Weights come from a seed, so the same call writes the
same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = len(SPECIALS) + 256
IM_END = 2


@dataclass(frozen=True)
class Shape:
    """The size of a tiny Llama. `intermediate` is twice `hidden`; head size is hidden / heads."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocab: int = VOCAB_SIZE
    context: int = 512
    tied: bool = True

    @property
    def intermediate(self) -> int:
        return 2 * self.hidden


def config_of(shape: Shape, dtype: str = "float32") -> dict[str, Any]:
    """Return config.json of a tiny Llama, as transformers writes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": IM_END,
        "pad_token_id": IM_END,
        "dtype": dtype,
    }


def shapes_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a tiny Llama, by name."""
    hidden, wide, head = shape.hidden, shape.intermediate, shape.hidden // shape.heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (hidden,),
            at + "self_attn.q_proj.weight": (hidden, hidden),
            at + "self_attn.k_proj.weight": (head * shape.kv_heads, hidden),
            at + "self_attn.v_proj.weight": (head * shape.kv_heads, hidden),
            at + "self_attn.o_proj.weight": (hidden, hidden),
            at + "post_attention_layernorm.weight": (hidden,),
            at + "mlp.gate_proj.weight": (wide, hidden),
            at + "mlp.up_proj.weight": (wide, hidden),
            at + "mlp.down_proj.weight": (hidden, wide),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not shape.tied:
        shapes["lm_head.weight"] = (shape.vocab, hidden)
    return shapes


def weights_of(shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return random weights: norms are one, the rest normal with deviation 0.05."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.ones(size) if len(size) == 1 else 0.05 * torch.randn(size, generator=generator)).to(
            dtype
        )
        for name, size in shapes_of(shape).items()
    }


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with a ChatML template; every text survives encode and decode."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write weights as one file, or as shards with an index."""
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    shape: Shape | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a whole tiny Llama: config, weights (random unless given), tokenizer, generation config."""
    shape = shape or Shape()
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(shape, seed, dtype) if weights is None else weights
    write_weights(folder, weights, shards)
    (folder / "config.json").write_text(
        json.dumps(config_of(shape, str(dtype).removeprefix("torch.")), indent=2)
    )
    generation = {"bos_token_id": 1, "eos_token_id": IM_END, "pad_token_id": IM_END}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    write_tokenizer(folder)
    return folder


def tuned_from(base: Mapping[str, torch.Tensor], seed: int, size: float = 0.02) -> dict[str, torch.Tensor]:
    """Return weights a little away from `base`, as a fine-tune would be."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor.float() + size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in base.items()
    }


def write_adapter(
    folder: Path, *, base: str, seed: int = 9, rank: int = 4, shape: Shape | None = None
) -> Path:
    """Write a LoRA adapter in peft's layout, on q_proj and v_proj, with a delta that is not zero."""
    shape = shape or Shape()
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (rows, columns) in (
        (name, size) for name, size in shapes_of(shape).items() if ".q_proj." in name or ".v_proj." in name
    ):
        module = "base_model.model." + name.removesuffix(".weight")
        weights[f"{module}.lora_A.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
        weights[f"{module}.lora_B.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


@dataclass(frozen=True)
class Bench:
    """Tiny models side by side in one folder, named as a catalog would name them.

    Attributes:
        root: the folder that holds them all: root / name is a model.
        base: a tiny Llama, one safetensors file.
        pirate, sums: two fine-tunes of it (seeded noise on every weight); sums lies in two shards.
        adapter: a LoRA adapter of base.
        deep: the same architecture with four layers; wide: with hidden 128.
    """

    root: Path
    base: Path
    pirate: Path
    sums: Path
    adapter: Path
    deep: Path
    wide: Path


def write_bench(root: Path) -> Bench:
    """Write every model of the bench; about 0.1 s."""
    weights = weights_of(Shape(), 0)
    return Bench(
        root=root,
        base=write_model(root / "base", weights=weights),
        pirate=write_model(root / "pirate", weights=tuned_from(weights, 1)),
        sums=write_model(root / "sums", weights=tuned_from(weights, 2), shards=2),
        adapter=write_adapter(root / "adapter", base="base"),
        deep=write_model(root / "deep", shape=Shape(layers=4), seed=3),
        wide=write_model(root / "wide", shape=Shape(hidden=128), seed=4),
    )
