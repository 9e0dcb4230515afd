"""QLoRA: LoRA beside weights that are kept in 4 bits (NF4, double quantisation)."""

from pathlib import Path
from typing import Any

from lab.core.job import Device
from lab.tune.registry import TuneMethod, tune_methods
from lab.tune.spec import TuneSpec


def _prepare(folder: Path, spec: TuneSpec, device: Device) -> Any:
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    from lab.tune.adapters import attach_lora, load_base

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, device.dtype),
    )
    model = load_base(folder, device.dtype, quantization_config=nf4, device_map={"": device.torch})
    _keep_gradients_after_evaluation(model)
    # The loop switches activation checkpointing on where the plan asks for it.
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return attach_lora(model, spec)


def _keep_gradients_after_evaluation(model: Any) -> None:
    """Stop bitsandbytes 0.50.2 from repacking weights on CPUs with AVX512-BF16.

    The first evaluation would repack every 4-bit layer for a kernel without a backward pass; training
    after it goes on without a word, and no gradient reaches the layers below.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _fold(base: Path, adapter: Path, target: Path) -> None:
    # Into the base as it was before it was quantised: merging into 4 bits would round every weight again.
    from lab.tune.adapters import fold_into_base

    fold_into_base(base, adapter, target)


qlora = tune_methods.add(
    "qlora",
    TuneMethod(
        name="qlora",
        words="LoRA beside weights kept in 4 bits: less memory on large models, slightly slower steps.",
        source="QLoRA, arXiv:2305.14314",
        prepare=_prepare,
        fold=_fold,
        linear_bytes=0.57,
        least_hidden=64,
    ),
)
