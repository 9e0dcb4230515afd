"""Load a base model, put LoRA beside it, save the adapter, fold it in. Imported by job processes only."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lab.tune.spec import TuneSpec


def load_base(folder: Path, dtype: str, **how: Any) -> Any:
    """Load a full model from its folder, from safetensors only and without anybody's code.

    Args:
        folder: a model in Hugging Face layout.
        dtype: precision of the weights, in torch's words.
        how: quantisation and placement, as `from_pretrained` takes them.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        **how,
    )
    model.config.use_cache = False
    return model


def attach_lora(model: Any, spec: TuneSpec) -> PeftModel:
    """Put trainable LoRA matrices beside every linear layer but the output head.

    They are kept in float32 beside weights of any precision. Their start is drawn from torch's seed.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.dropout,
        target_modules="all-linear",
        bias="none",
    )
    return get_peft_model(model, config)


def save_adapter(model: PeftModel, tokenizer: Any, base_name: str, folder: Path) -> Path:
    """Save an adapter with its tokenizer and chat template, naming its base as the lab does.

    Args:
        model: the trained model.
        tokenizer: what it was trained with.
        base_name: the base model's name in the lab; never a path of this machine.
        folder: where to; replaced if it is there from an earlier attempt.
    """
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card names the base by its path
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = base_name
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    tokenizer.save_pretrained(folder)
    return folder


def fold_into_base(base: Path, adapter: Path, target: Path) -> None:
    """Write base plus adapter as a full model: added in float32, kept in the base's own precision.

    Args:
        base: the full model's folder, as it was before any quantisation.
        adapter: the adapter's folder.
        target: where to; replaced if it is there from an earlier attempt.
    """
    kept = json.loads((base / "config.json").read_text())
    dtype = getattr(torch, str(kept.get("dtype") or kept.get("torch_dtype") or "float32"))
    whole = PeftModel.from_pretrained(load_base(base, "float32"), adapter).merge_and_unload(safe_merge=True)
    whole.config.use_cache = True
    shutil.rmtree(target, ignore_errors=True)
    whole.to(dtype).save_pretrained(target, safe_serialization=True)
    for file in adapter.iterdir():
        if file.name not in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy2(file, target / file.name)
