"""Load the base model and make it trainable, the same in every process of a fine-tune."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from lab.core.job import Device
from lab.tune.ranks import Ranks, share_out
from lab.tune.registry import tune_methods
from lab.tune.spec import TuneSpec


def ready_model(base: Path, spec: TuneSpec, device: Device, tokenizer: Any, ranks: Ranks) -> Any:
    """Return the model to train, its frozen weights shared out among the processes.

    Args:
        base: the base model's folder.
        spec: what was asked for; the adapter's start is drawn from its seed.
        device: where this process computes. Several load the model into the host's memory, and only
            their shares of it reach their devices.
        tokenizer: of the base model.
        ranks: our place among the processes, which have met.
    """
    set_seed(spec.seed)
    loaded = device if ranks.size == 1 else replace(device, torch="cpu")
    model = tune_methods[spec.method].prepare(base, spec, loaded)
    model.config.pad_token_id = pad_id_of(tokenizer)
    return share_out(model, ranks)


def pad_id_of(tokenizer: Any) -> int:
    """Return the token that fills rows up: the padding token, else the end mark, else the first."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)
