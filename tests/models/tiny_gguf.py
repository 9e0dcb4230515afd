"""Tiny GGUF files, written with the gguf package as a converter would, or byte by byte to be hostile."""

import struct
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from tiny_models import CHAT_TEMPLATE, SPECIALS
from tokenizers import pre_tokenizers

HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS, HEAD = 64, 256, 2, 4, 2, 16
TOKENS = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
BLOCK = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HEADS * HEAD, HIDDEN),
    "attn_k": (KV_HEADS * HEAD, HIDDEN),
    "attn_v": (KV_HEADS * HEAD, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (WIDE, HIDDEN),
    "ffn_up": (WIDE, HIDDEN),
    "ffn_down": (HIDDEN, WIDE),
}
NORMS = {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
BIASES = {
    "attn_q.bias": (HEADS * HEAD,),
    "attn_k.bias": (KV_HEADS * HEAD,),
    "attn_v.bias": (KV_HEADS * HEAD,),
}
PHI = {"attn_qkv": ((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN), "ffn_up": (2 * WIDE, HIDDEN)}
FAMILIES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "llama": BLOCK,
    "qwen2": {**BLOCK, **BIASES},
    "qwen3": {**BLOCK, **NORMS},
    "gemma3": {**BLOCK, **NORMS, "post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)},
    "phi3": {
        **{
            name: shape
            for name, shape in BLOCK.items()
            if name not in ("attn_q", "attn_k", "attn_v", "ffn_gate")
        },
        **PHI,
    },
}


def shapes_of(family: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for name, shape in FAMILIES[family].items():
            shapes[f"blk.{layer}.{name if '.' in name else name + '.weight'}"] = shape
    return shapes


def write_gguf(path: Path, family: str = "llama", kind: Kind = Kind.F32, **settings: object) -> Path:
    """Write a model of random weights; matrices are kept in the quantisation asked for, the rest in F32."""
    writer = gguf.GGUFWriter(path, family)
    add_settings(writer, family)
    random = np.random.default_rng(3)
    for name, shape in shapes_of(family).items():
        values = (0.1 * random.standard_normal(shape)).astype(np.float32)
        own = kind if len(shape) == 2 else Kind.F32
        if own == Kind.Q4_K and shape[1] % 256:
            own = Kind.Q8_0
        writer.add_tensor(name, packed(values, own, random), raw_dtype=own)
    for key, value in settings.items():
        writer.add_string(key.replace("__", "."), str(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def packed(values: np.ndarray, kind: Kind, random: np.random.Generator) -> np.ndarray:
    if kind != Kind.Q4_K:
        return gguf.quantize(values, kind)
    blocks = random.integers(
        0, 256, (values.shape[0], values.shape[1] // 256, 144), np.uint8
    )  # any bytes will do
    blocks[..., :4] = np.frombuffer(
        np.array([0.002, 0.01], np.float16).tobytes(), np.uint8
    )  # but for the scales
    return blocks.reshape(values.shape[0], -1)


def add_settings(writer: gguf.GGUFWriter, family: str) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    if family in ("qwen3", "gemma3"):
        writer.add_key_length(HEAD)
    else:
        writer.add_rope_dimension_count(HEAD)
    if family == "gemma3":
        writer.add_sliding_window(32)
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


# Files written byte by byte -----------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def tensor(name: str, offset: int, sides: tuple[int, ...] = (8,), kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def raw_gguf(
    settings: list[bytes], tensors: list[bytes], data: int = 64, *, magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    head = (
        magic
        + struct.pack("<IQQ", version, len(tensors), len(settings))
        + b"".join(settings)
        + b"".join(tensors)
    )
    return head + bytes(-len(head) % 32 + data)
