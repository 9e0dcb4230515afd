"""The registry of fine-tune methods: one module in `lab/tune/methods/` each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.core.job import Device
from lab.core.registry import Registry

if TYPE_CHECKING:
    from lab.tune.spec import TuneSpec


@dataclass(frozen=True)
class TuneMethod:
    """What the training loop has to know of a method.

    Attributes:
        name: the word in specs.
        words: what it is and when to choose it, one sentence.
        source: the paper, with its number.
        prepare: load the base model from a folder and make it trainable: prepare(folder, spec, device).
        fold: write a full model: fold(base folder, adapter folder, target folder).
        linear_bytes: memory of one frozen weight of a linear layer; None follows the device's precision.
        least_hidden: the narrowest model that it works on.
    """

    name: str
    words: str
    source: str
    prepare: Callable[[Path, "TuneSpec", Device], Any]
    fold: Callable[[Path, Path, Path], None]
    linear_bytes: float | None = None
    least_hidden: int = 1


tune_methods: Registry[TuneMethod] = Registry("fine-tune method", "lab.tune.methods")
