"""LoRA: small trained matrices beside frozen weights."""

from pathlib import Path
from typing import Any

from lab.core.job import Device
from lab.tune.registry import TuneMethod, tune_methods
from lab.tune.spec import TuneSpec


def _prepare(folder: Path, spec: TuneSpec, device: Device) -> Any:
    from lab.tune.adapters import attach_lora, load_base

    return attach_lora(load_base(folder, device.dtype).to(device.torch), spec)


def _fold(base: Path, adapter: Path, target: Path) -> None:
    from lab.tune.adapters import fold_into_base

    fold_into_base(base, adapter, target)


lora = tune_methods.add(
    "lora",
    TuneMethod(
        name="lora",
        words="Trains small matrices beside the frozen weights of every linear layer.",
        source="LoRA, arXiv:2106.09685",
        prepare=_prepare,
        fold=_fold,
    ),
)
