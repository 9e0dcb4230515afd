"""Whether a folder holds a model that the lab can use: every check that headers and configs allow.

Reads no weight and imports no transformers, so a form can be answered at once. NaN among the weights
is found later, by the job that reads them all.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.models.config import (
    AdapterConfig,
    ModelConfig,
    is_adapter,
    read_adapter_config,
    read_json,
    read_model_config,
    refuse_code,
    refuse_config,
)
from lab.models.headers import PICKLES, TensorInfo, read_headers, refuse

TOKENIZER = "tokenizer.json"
TOKENIZER_LIMIT = 64 << 20
"""The longest tokenizer.json that we read, in bytes."""

DENSE_FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3"}
)
"""Families whose blocks all have q, k, v, o, gate, up and down projections in the same layout."""

EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")
HEAD = "lm_head.weight"

_LAYER = re.compile(r"^(model\.layers|transformer\.h)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class ModelFacts:
    """What a checked folder holds.

    Attributes:
        architecture: the class in transformers; "LoRA adapter" for one.
        parameters: how many numbers its files hold.
        size_bytes: bytes of its weights.
        dtype: the dtype of most of its weights, in the format's words.
        layers, hidden, vocab, context, tied: as ModelConfig has them; 0 and False for an adapter.
        has_chat_template: whether it says how a conversation is written.
        base, rank: of an adapter; "" and 0 for a full model.
    """

    architecture: str
    parameters: int
    size_bytes: int
    dtype: str
    layers: int = 0
    hidden: int = 0
    vocab: int = 0
    context: int = 0
    tied: bool = False
    has_chat_template: bool = False
    base: str = ""
    rank: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the facts as the catalog keeps them."""
        return asdict(self)


def check_model_folder(folder: Path, *, quantised: bool = False, tokenizer: bool = True) -> ModelFacts:
    """Check a model or adapter folder and return what it holds.

    Args:
        folder: what should be a model in Hugging Face layout.
        quantised: whether quantised weights will do.
        tokenizer: whether there must be one; weights merged on the command line may do without.

    Raises:
        BadInput: it can't be used; names the file, the tensor where there is one, and the reason.
    """
    tensors = read_headers(folder)
    _refuse_pickles(folder)
    if is_adapter(folder):
        adapter = read_adapter_config(folder)
        _check_pairs(tensors, adapter)
        return ModelFacts(
            "LoRA adapter",
            **_sizes(tensors),
            base=adapter.base,
            rank=adapter.rank,
            has_chat_template=has_chat_template(folder),
        )
    config = read_model_config(folder)
    if config.quantisation and not quantised:
        refuse_config(
            folder / "config.json",
            f"the weights are quantised ({config.quantisation})",
            "Merging and training start from plain weights.",
            "Use the model that this one was quantised from.",
        )
    if tokenizer or (folder / TOKENIZER).exists():
        _check_tokenizer(folder)
    if not config.quantisation:
        _check_shapes(tensors, config)
    return ModelFacts(
        config.architecture,
        **_sizes(tensors),
        layers=config.layers,
        hidden=config.hidden,
        vocab=config.vocab,
        context=config.context,
        tied=config.tied,
        has_chat_template=has_chat_template(folder),
    )


def check_adapter_fits(adapter: Path, base: Path) -> None:
    """Check that every matrix that an adapter changes is in the base, in the right shape.

    Raises:
        BadInput: one is not; names the tensor and both shapes.
    """
    weights = read_headers(base)
    tensors = read_headers(adapter)
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
        target = weights.get(f"{module}.weight")
        if target is None:
            refuse(down.file, f"it adapts {module}, which {base.name} doesn't have", name)
        up = tensors[name.replace("lora_A", "lora_B")]
        if (up.shape[0], down.shape[1]) != target.shape:
            shape = (up.shape[0], down.shape[1])
            refuse(down.file, f"it adapts a matrix of {shape}; in {base.name} it is {target.shape}", name)


def has_chat_template(folder: Path) -> bool:
    """Whether a folder says how a conversation is written."""
    if (folder / "chat_template.jinja").is_file():
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))


def _sizes(tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    by_dtype = Counter[str]()
    for tensor in tensors.values():
        by_dtype[tensor.dtype] += tensor.size_bytes
    return {
        "parameters": sum(tensor.elements for tensor in tensors.values()),
        "size_bytes": sum(by_dtype.values()),
        "dtype": by_dtype.most_common(1)[0][0],
    }


def _refuse_pickles(folder: Path) -> None:
    """Refuse a folder that holds pickles beside its safetensors: somebody may open the wrong one."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise BadInput(
            f"{folder.name} holds {', '.join(pickles[:3])} beside its safetensors.",
            "Such files can run code when opened; a model folder of the lab has none.",
            "Delete them, or copy only config, tokenizer and safetensors files into a new folder.",
        )


def _check_tokenizer(folder: Path) -> None:
    file = folder / TOKENIZER
    if not file.is_file():
        refuse_config(file, "it is missing", "The lab uses fast tokenizers, kept in this file.")
    if file.stat().st_size > TOKENIZER_LIMIT:
        refuse_config(file, f"it has {file.stat().st_size:,} bytes", f"At most {TOKENIZER_LIMIT:,} are read.")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        refuse_code(settings, read_json(settings))


def _check_pairs(tensors: Mapping[str, TensorInfo], adapter: AdapterConfig) -> None:
    """Check that every lora_A has its lora_B, and both the rank that the config states."""
    downs = [name for name in tensors if name.endswith(".lora_A.weight")]
    if not downs:
        first = next(iter(tensors.values()))
        refuse(first.file, "it holds no lora_A matrix")
    for name in downs:
        down, up = tensors[name], tensors.get(name.replace("lora_A", "lora_B"))
        if up is None or len(up.shape) != 2 or len(down.shape) != 2:
            refuse(down.file, "its lora_B matrix is missing or one of the two is no matrix", name)
        if not adapter.rank == down.shape[0] == up.shape[1]:
            ranks = f"{down.shape[0]} and {up.shape[1]}"
            refuse(
                down.file, f"its matrices have rank {ranks}, adapter_config.json says {adapter.rank}", name
            )


def _check_shapes(tensors: Mapping[str, TensorInfo], config: ModelConfig) -> None:
    """Check the weights against config.json: vocabulary, width, layers, and each block's projections."""
    embedding = next((name for name in EMBEDDINGS if name in tensors), None)
    if embedding is None:
        refuse(next(iter(tensors.values())).file, "there is no token embedding", EMBEDDINGS[0])
    table = (config.vocab, config.hidden)
    expected: dict[str, tuple[int, ...]] = {embedding: table, HEAD: table}
    if not config.tied and HEAD not in tensors and embedding == EMBEDDINGS[0]:
        refuse(tensors[embedding].file, "it is missing and config.json doesn't tie it to the embedding", HEAD)
    blocks = _blocks(tensors)
    _check_blocks(blocks, tensors, config)
    if config.model_type in DENSE_FAMILIES:
        for name in tensors:
            if (match := _LAYER.match(name)) and (shape := _block_shapes(config).get(match[3])):
                expected[name] = shape
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            why = f"it is {tensors[name].shape} but config.json makes it {shape}"
            refuse(tensors[name].file, why, name)


def _blocks(tensors: Mapping[str, TensorInfo]) -> dict[int, dict[str, str]]:
    """Return, for each layer number, its tensors: name within the block -> full name."""
    blocks: dict[int, dict[str, str]] = {}
    for name in tensors:
        if match := _LAYER.match(name):
            blocks.setdefault(int(match[2]), {})[match[3]] = name
    return blocks


def _check_blocks(
    blocks: Mapping[int, Mapping[str, str]], tensors: Mapping[str, TensorInfo], config: ModelConfig
) -> None:
    file = next(iter(tensors.values())).file
    for layer in range(config.layers):
        if layer not in blocks:
            refuse(file, f"config.json says {config.layers} layers but layer {layer} has no weights")
    beyond = next((layer for layer in sorted(blocks) if layer >= config.layers), None)
    if beyond is not None:
        name = next(iter(blocks[beyond].values()))
        refuse(
            tensors[name].file, f"config.json says {config.layers} layers; this is of layer {beyond}", name
        )
    if config.model_type not in DENSE_FAMILIES:
        return
    every = set().union(*blocks.values())
    for layer, block in sorted(blocks.items()):
        if missing := sorted(every - set(block)):
            name = next(iter(block.values())).replace(next(iter(block)), missing[0])
            refuse(file, f"layer {layer} lacks it, though other layers have it", name)


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a dense block's matrices, by name within the block."""
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    return {
        "self_attn.q_proj.weight": (queries, config.hidden),
        "self_attn.k_proj.weight": (keys, config.hidden),
        "self_attn.v_proj.weight": (keys, config.hidden),
        "self_attn.o_proj.weight": (config.hidden, queries),
        "mlp.gate_proj.weight": (config.intermediate, config.hidden),
        "mlp.up_proj.weight": (config.intermediate, config.hidden),
        "mlp.down_proj.weight": (config.hidden, config.intermediate),
        "input_layernorm.weight": (config.hidden,),
        "post_attention_layernorm.weight": (config.hidden,),
    }
