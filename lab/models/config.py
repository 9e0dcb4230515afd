"""What a model folder says it is: facts from config.json, adapter_config.json and the headers.

Reads no weight and imports no transformers, so the web process may use it. Whether the facts hold
together is the business of `lab/models/inspection.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lab.core.errors import BadInput
from lab.core.spec import strict_json

CONFIG_LIMIT = 1 << 20
"""The longest config that we read, in bytes."""


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says, for the dense causal language models that the lab works with.

    Attributes:
        architecture: the class in transformers, such as "LlamaForCausalLM".
        model_type: the family in transformers, such as "llama".
        layers, hidden, intermediate, heads, kv_heads, head_size, vocab: sizes; 0 where the file has none.
        context: the longest sequence that the model was made for, in tokens.
        tied: whether the output head is the embedding.
        quantisation: the method of a quantised model, "" for plain weights.
    """

    architecture: str
    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocab: int
    context: int
    tied: bool
    quantisation: str


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says of a LoRA adapter.

    Attributes:
        base: the base model as the file names it: a name in the catalog, or whatever others wrote.
        rank, alpha: the LoRA's r and lora_alpha.
        targets: the modules it adapts, sorted; ("all-linear",) and patterns stand as written.
    """

    base: str
    rank: int
    alpha: float
    targets: tuple[str, ...]


def is_adapter(folder: Path) -> bool:
    """Whether a model folder is an adapter."""
    return (folder / "adapter_config.json").is_file()


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json of a full model.

    Raises:
        BadInput: it is missing, broken, asks for remote code, or is of no causal language model.
    """
    file = folder / "config.json"
    raw = read_json(file)
    refuse_code(file, raw)
    architecture = _architecture(file, raw)
    heads = _count(file, raw, "num_attention_heads", "n_head")
    hidden = _count(file, raw, "hidden_size", "n_embd")
    return ModelConfig(
        architecture=architecture,
        model_type=str(raw.get("model_type", "")),
        layers=_count(file, raw, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        intermediate=_count(file, raw, "intermediate_size", "n_inner", required=False),
        heads=heads,
        kv_heads=_count(file, raw, "num_key_value_heads", required=False) or heads,
        head_size=_count(file, raw, "head_dim", required=False) or hidden // heads,
        vocab=_count(file, raw, "vocab_size"),
        context=_count(file, raw, "max_position_embeddings", "n_positions", required=False),
        # transformers leaves a key out where it equals the family's default: tied for these.
        tied=bool(raw.get("tie_word_embeddings", raw.get("model_type") in TIED_BY_DEFAULT)),
        quantisation=_quantisation(raw),
    )


TIED_BY_DEFAULT = frozenset({"gpt2", "gemma", "gemma2", "gemma3_text", "cohere", "cohere2"})


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read adapter_config.json of a LoRA adapter.

    Raises:
        BadInput: it is missing, broken, asks for code, or is no LoRA adapter.
    """
    file = folder / "adapter_config.json"
    raw = read_json(file)
    refuse_code(file, raw)
    kind = raw.get("peft_type")
    if kind != "LORA":
        refuse_config(file, f"peft_type is {kind!r}", "The lab reads LoRA adapters.")
    base, alpha, targets = (
        raw.get("base_model_name_or_path"),
        raw.get("lora_alpha"),
        raw.get("target_modules"),
    )
    if not isinstance(base, str) or not base:
        refuse_config(file, f"base_model_name_or_path is {base!r}", "An adapter names its base model.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        refuse_config(file, f"lora_alpha is {alpha!r}", "It is a number.")
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        refuse_config(file, f"target_modules is {str(targets)[:80]!r}", "It lists the adapted modules.")
    return AdapterConfig(base, _count(file, raw, "r"), float(alpha), tuple(sorted(names)))


def read_json(file: Path, limit_bytes: int = CONFIG_LIMIT) -> dict[str, Any]:
    """Read a JSON object strictly.

    Args:
        file: what to read.
        limit_bytes: refuse a longer file.

    Raises:
        BadInput: the file is missing, too long or not what it should be.
    """
    try:
        if file.stat().st_size > limit_bytes:
            refuse_config(file, f"it has {file.stat().st_size:,} bytes", f"At most {limit_bytes:,} are read.")
        content = strict_json(file.read_text("utf-8"))
    except OSError as error:
        refuse_config(file, f"it can't be read ({error.strerror})", "A model folder has this file.")
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        refuse_config(file, f"it is not JSON ({str(error)[:120]})", "It is JSON as the standard has it.")
    if not isinstance(content, dict):
        refuse_config(file, "it is not a JSON object", "It is a table of settings.")
    return content


def refuse_code(file: Path, raw: dict[str, Any]) -> None:
    """Refuse a config that would have transformers or peft import code for it.

    Raises:
        BadInput: there is an `auto_map` or the like anywhere in the file.
    """
    for key in ("auto_map", "auto_mapping", "custom_generate"):
        if _holds(raw, key):
            refuse_config(
                file,
                f"{key} asks to run code of the model's author",
                "The lab runs no code from model folders.",
                "Use a model of a family that transformers itself has.",
            )


def refuse_config(file: Path, why: str, expected: str, do: str = "") -> NoReturn:
    """Refuse a folder because of one of its config files.

    Raises:
        BadInput: always.
    """
    raise BadInput(f"{file.name}: {why}.", expected, do or "Take the file from the model's original folder.")


def _holds(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return bool(value.get(key)) or any(_holds(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_holds(inner, key) for inner in value)


def _architecture(file: Path, raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    name = str(names[0]) if isinstance(names, list) and len(names) == 1 else ""
    if not name.endswith(("ForCausalLM", "LMHeadModel")):
        refuse_config(
            file,
            f"architectures is {str(names)[:80]}",
            "The lab works with causal language models (…ForCausalLM).",
            "Choose a text generation model.",
        )
    return name


def _count(file: Path, raw: dict[str, Any], *keys: str, required: bool = True) -> int:
    """Return the first of the keys that the file has: a positive whole number, 0 if it may be missing."""
    for key in keys:
        value = raw.get(key)
        if value is None:
            continue
        if type(value) is not int or not 0 < value < 1 << 40:
            refuse_config(file, f"{key} is {str(value)[:40]!r}", "It is a positive whole number.")
        return value
    if required:
        refuse_config(file, f"{keys[0]} is missing", "It is a positive whole number.")
    return 0


def _quantisation(raw: dict[str, Any]) -> str:
    settings = raw.get("quantization_config")
    if not settings:
        return ""
    return str(settings.get("quant_method", "quantised")) if isinstance(settings, dict) else "quantised"
