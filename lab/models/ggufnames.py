"""What a GGUF file's settings and tensors are called in Hugging Face's layout, family by family.

Knows llama, qwen2, qwen3, gemma3 and phi3; reads a checked header only, and no weight.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi
from typing import Any

from lab.core.errors import BadInput
from lab.models.gguf import GgufHeader, refuse_gguf

ROPE_FACTORS = "rope_freqs.weight"
"""By what Llama 3.1 and later divide each rotary frequency; a setting in Hugging Face's layout."""

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMED = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_IN_BLOCK = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)")


@dataclass(frozen=True)
class Family:
    """How one architecture of GGUF reads in Hugging Face's layout.

    Attributes:
        model_type, architecture: transformers' names.
        block: names within a block.
        interleaved: whether the rows of q and k lie in the order of rotary pairs, and are put back.
        norm_offset: what was added to every norm's weight.
        more: settings of its config besides the common ones.
    """

    model_type: str
    architecture: str
    block: Mapping[str, str] = field(default_factory=lambda: _BLOCK)
    interleaved: bool = False
    norm_offset: float = 0.0
    more: Callable[["Settings"], dict[str, Any]] = lambda _: {}


class Settings:
    """A header's settings by their names within the architecture, each checked as it is asked for."""

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self.architecture = str(header.settings.get("general.architecture", ""))

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number.

        Raises:
            BadInput: it is missing, or something else.
        """
        value = self._header.settings.get(f"{self.architecture}.{key}", default)
        if type(value) is not int or not 0 < value < 1 << 31:
            refuse_gguf(
                self._header.file, f"{self.architecture}.{key} is {str(value)[:40]}; it is a whole number"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number.

        Raises:
            BadInput: it is missing, or something else.
        """
        value = self._header.settings.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            refuse_gguf(self._header.file, f"{self.architecture}.{key} is {str(value)[:40]}; it is a number")
        return float(value)

    def text(self, key: str) -> str:
        """Return a text, "" where there is none."""
        value = self._header.settings.get(f"{self.architecture}.{key}", "")
        return value if isinstance(value, str) else ""

    def token(self, name: str) -> int | None:
        """Return a special token's number, None where the file names none."""
        value = self._header.settings.get(f"tokenizer.ggml.{name}_token_id")
        return value if type(value) is int and 0 <= value < 1 << 31 else None


def _gemma3(settings: Settings) -> dict[str, Any]:
    heads, hidden = settings.count("attention.head_count"), settings.count("embedding_length")
    is_largest = settings.count("block_count") == 62  # the 27B alone scales queries by its width
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": settings.count("attention.sliding_window"),
        "query_pre_attn_scalar": hidden // heads if is_largest else settings.count("attention.key_length"),
    }


_GEMMA = {
    **_BLOCK,
    **_NORMED,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI = {**_BLOCK, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}

FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", "LlamaForCausalLM", interleaved=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", {**_BLOCK, **_NORMED}),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", _GEMMA, norm_offset=1.0, more=_gemma3),
    "phi3": Family("phi3", "Phi3ForCausalLM", _PHI),
}
"""By what `general.architecture` says."""


def family_of(header: GgufHeader) -> Family:
    """Return the family of a file.

    Raises:
        BadInput: the lab doesn't read it, or the file is one part of several.
    """
    name = str(header.settings.get("general.architecture", ""))[:40]
    if name not in FAMILIES:
        raise BadInput(
            f"{header.file.name}: its architecture is {name!r}.",
            f"Read are {', '.join(FAMILIES)}.",
            "Import the model's own folder instead, if transformers has its family.",
        )
    parts = header.settings.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        refuse_gguf(header.file, f"it is one of {parts} parts", "Join them first (llama-gguf-split --merge).")
    return FAMILIES[name]


def names_of(header: GgufHeader, family: Family) -> dict[str, str]:
    """Return each tensor's name in Hugging Face's layout, by its name in the file.

    Raises:
        BadInput: there is a tensor that the family doesn't have.
    """
    names = {}
    for name in header.tensors:
        if name == ROPE_FACTORS:
            continue
        match = _IN_BLOCK.fullmatch(name)
        part = family.block.get(match[2]) if match else None
        if match and part:
            names[name] = f"model.layers.{int(match[1])}.{part}.{match[3]}"
        elif name in _OUTER:
            names[name] = _OUTER[name]
        else:
            refuse_gguf(
                header.file, f"{family.architecture} has no tensor {name}", "Import the model's own folder."
            )
    return names


def config_of(header: GgufHeader, family: Family, factors: list[float]) -> dict[str, Any]:
    """Return config.json.

    Args:
        header: the checked file.
        family: its family.
        factors: the values of `rope_freqs.weight`, [] where there is none.

    Raises:
        BadInput: a setting is missing or out of bounds, or a rotary scaling is unknown.
    """
    settings = Settings(header)
    hidden, heads = settings.count("embedding_length"), settings.count("attention.head_count")
    head = settings.count(
        "attention.key_length", settings.count("rope.dimension_count", max(hidden // heads, 1))
    )
    special = {f"{short}_token_id": settings.token(long) for short, long in SPECIAL.items()}
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "intermediate_size": settings.count("feed_forward_length"),
        "num_hidden_layers": settings.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": settings.count("attention.head_count_kv", heads),
        "head_dim": head,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "max_position_embeddings": settings.count("context_length"),
        "rms_norm_eps": settings.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **_biases(header, family),
        "dtype": "bfloat16",
        "rope_theta": settings.number("rope.freq_base", 10000.0),
        **special,
        **family.more(settings),
    }
    if scaling := _scaling(header, settings, config["rope_theta"], head, factors):
        config["rope_scaling"] = scaling
    return config


SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _biases(header: GgufHeader, family: Family) -> dict[str, bool]:
    """Say of a Llama whether its projections have biases; other families' are fixed."""
    if family.model_type != "llama":
        return {}
    return {
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
    }


def _scaling(
    header: GgufHeader, settings: Settings, theta: float, head: int, factors: list[float]
) -> dict[str, Any]:
    """Return how rotary frequencies are stretched; {} where they aren't."""
    if factors:
        return _llama3(header, theta, head, factors)
    kind = settings.text("rope.scaling.type")
    if kind in ("", "none"):
        return {}
    if kind not in ("linear", "yarn"):
        refuse_gguf(header.file, f"its rotary scaling is {kind[:40]!r}", "Import the model's own folder.")
    scaling = {"rope_type": kind, "factor": settings.number("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = settings.count("rope.scaling.original_context_length")
    return scaling


def _llama3(header: GgufHeader, theta: float, head: int, factors: list[float]) -> dict[str, Any]:
    """Find the settings of Llama 3's scaling that make these factors.

    The wavelength of pair i is 2 pi theta^(2i/head). Beyond context / low it is stretched by the factor,
    under context / high it stays, and between the two it goes over smoothly (transformers' "llama3").
    """
    factor, low, high, context = max(factors), 1.0, 4.0, 8192
    for i, found in enumerate(factors):
        wave = 2 * pi * theta ** (2 * i / head)
        smooth = min(max((context / wave - low) / (high - low), 0.0), 1.0)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if abs(found - expected) > 1e-3 * expected:
            refuse_gguf(
                header.file, f"its {ROPE_FACTORS} is not Llama 3's scaling", "Import the model's own folder."
            )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def quantisation_words(header: GgufHeader) -> str:
    """Say how the weights were kept: "Q4_1, with F32, Q8_0", what most of the numbers have first."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        sizes[tensor.quantisation] = sizes.get(tensor.quantisation, 0) + tensor.elements
    first = max(sizes, key=lambda name: sizes[name])
    rest = sorted(set(sizes) - {first})
    return f"{first}, with {', '.join(rest)}" if rest else first


def heads_of(config: Mapping[str, Any], family: Family, name: str) -> int:
    """Return how many heads' rows lie in the order of rotary pairs in a tensor; 0 where none do."""
    match = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", name)
    if not family.interleaved or not match:
        return 0
    return int(config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"])
