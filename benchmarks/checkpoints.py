"""Random Llama checkpoints for benchmarks: a base and fine-tunes of it, of any size."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARD_BYTES = 300_000_000


@dataclass(frozen=True)
class Shape:
    """The sizes of a random Llama checkpoint."""

    hidden: int
    mlp: int
    layers: int
    vocab: int
    heads: int = 16
    kv_heads: int = 4


HALF_BILLION = Shape(hidden=1024, mlp=3584, layers=32, vocab=49_152)
SEVEN_BILLION = Shape(hidden=4096, mlp=11_008, layers=32, vocab=32_000, heads=32, kv_heads=32)
SMALL = Shape(hidden=1024, mlp=3584, layers=8, vocab=16_384)
TINY = Shape(hidden=64, mlp=96, layers=2, vocab=512)


def write_model(folder: Path, shape: Shape, seed: int) -> None:
    """Write a random bf16 Llama: seed 0 is the base, others are it plus noise of a tenth of its scale."""
    folder.mkdir()
    base, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, sizes in shapes_of(shape).items():
        values = torch.randn(sizes, generator=base).mul_(0.02)
        if seed:
            values += torch.randn(sizes, generator=noise).mul_(0.002)
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = values.bfloat16()
    weight_map = {}
    for place, shard in enumerate(shards, 1):
        file = f"model-{place:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config_of(shape)))
    (folder / "tokenizer.json").write_text("{}")


def shapes_of(shape: Shape) -> Mapping[str, tuple[int, ...]]:
    """Return the tensors of an untied Llama."""
    hidden, mlp = shape.hidden, shape.mlp
    keys = hidden // shape.heads * shape.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        shapes |= {
            f"{stem}.input_layernorm.weight": (hidden,),
            f"{stem}.self_attn.q_proj.weight": (hidden, hidden),
            f"{stem}.self_attn.k_proj.weight": (keys, hidden),
            f"{stem}.self_attn.v_proj.weight": (keys, hidden),
            f"{stem}.self_attn.o_proj.weight": (hidden, hidden),
            f"{stem}.post_attention_layernorm.weight": (hidden,),
            f"{stem}.mlp.gate_proj.weight": (mlp, hidden),
            f"{stem}.mlp.up_proj.weight": (mlp, hidden),
            f"{stem}.mlp.down_proj.weight": (hidden, mlp),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (shape.vocab, hidden)}


def config_of(shape: Shape) -> dict[str, object]:
    """Return the checkpoint's config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def write_linked(folder: Path, other: Path) -> None:
    """Make a checkpoint whose weight files are links to another's, so that it takes no room."""
    folder.mkdir()
    for file in other.iterdir():
        (folder / file.name).symlink_to(file)
