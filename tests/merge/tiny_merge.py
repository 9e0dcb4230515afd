"""Tiny models on disk, a shelf that finds them, and a job that records what it is told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lab.core.errors import NotFound
from lab.core.job import Device

HIDDEN, MLP, VOCAB = 8, 12, 20


def tensors_of(layers: int, *, seed: int, scale: float = 1.0, head: bool = False) -> dict[str, torch.Tensor]:
    """Return the weights of a tiny Llama, in float32."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    tensors = {"model.embed_tokens.weight": numbers(VOCAB, HIDDEN), "model.norm.weight": numbers(HIDDEN)}
    if head:
        tensors["lm_head.weight"] = numbers(VOCAB, HIDDEN)
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            tensors[f"{stem}.self_attn.{name}_proj.weight"] = numbers(HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            tensors[f"{stem}.mlp.{name}_proj.weight"] = numbers(MLP, HIDDEN)
        tensors[f"{stem}.mlp.down_proj.weight"] = numbers(HIDDEN, MLP)
        tensors[f"{stem}.input_layernorm.weight"] = numbers(HIDDEN)
        tensors[f"{stem}.post_attention_layernorm.weight"] = numbers(HIDDEN)
    return tensors


@dataclass
class TinyShelf:
    """Finds models by name in one folder."""

    room: Path
    free: int = 1 << 40

    def model(self, ref: str) -> Path:
        if not (self.room / ref).is_dir():
            raise NotFound(f"There is no model {ref!r}.")
        return self.room / ref

    def dataset(self, ref: str) -> Path:
        raise NotFound(f"There is no dataset {ref!r}.")

    def free_disk_bytes(self) -> int:
        return self.free

    def memory_bytes(self) -> int:
        return 1 << 34

    def add(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        dtype: torch.dtype = torch.bfloat16,
        shards: int = 1,
        **config: Any,
    ) -> Path:
        """Write a model; its layers are counted from the tensors."""
        folder = self.room / name
        folder.mkdir()
        tensors = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
        write_shards(folder, tensors, shards)
        layers = len({key.split(".")[2] for key in tensors if ".layers." in key})
        settings = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": layers,
            "hidden_size": HIDDEN,
            "intermediate_size": MLP,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
            "tie_word_embeddings": "lm_head.weight" not in tensors,
            "torch_dtype": "bfloat16",
        }
        (folder / "config.json").write_text(json.dumps(settings | config))
        (folder / "tokenizer.json").write_text("{}")
        return folder


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


CPU = Device("cpu", "float32", "CPU", 1 << 34)


@dataclass
class TinyJob(TinyShelf):
    """A job in a folder of its own; `on_breath` may raise."""

    folder: Path = Path()
    id: str = "job"
    attempt: int = 1
    device: Device = CPU
    notes: list[str] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    on_breath: Callable[[], None] = lambda: None

    def emit(self, kind: str, **payload: Any) -> None:
        raise AssertionError(f"a merge tells nothing by {kind}")

    def note(self, text: str, level: str = "info") -> None:
        self.notes.append(text)

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        self.fractions.append(fraction)

    def breathe(self) -> None:
        self.on_breath()

    def stop_asked(self) -> bool:
        return False
