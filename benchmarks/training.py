"""Training tokens per second of a fine-tune, against a bare transformers trainer with the same settings.

Both sides train LoRA on the same rows in the same order in this process, in turns. The clock runs
from the report of the first step to that of the last, so it holds all that happens between steps.
"""

import io
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from benchmarks.table import Row
from lab.core.events import EventKind
from lab.core.job import Device
from lab.data.encoding import load_tokenizer
from lab.data.samples import sample_datasets
from lab.local import LocalJob, Voice
from lab.models.catalog import PathShelf
from lab.models.starter import default_cache, fetch
from lab.tune.adapters import attach_lora, load_base
from lab.tune.batches import Padding, Rows, features_of, load_rows
from lab.tune.loop import train, training_arguments
from lab.tune.plan import Plan, make_plan
from lab.tune.spec import TuneSpec

LEAST_SHARE = 0.95


@dataclass
class Setting:
    """What is measured.

    Attributes:
        folder: the model.
        steps: optimiser steps of a run; the first is not timed.
        rounds: times each way, in turns; the fastest counts.
        batch: rows a step.
        device: where both sides compute.
    """

    folder: Path
    steps: int = 11
    rounds: int = 3
    batch: int = 8
    device: Device = field(
        default_factory=lambda: Device(
            "cpu", "bfloat16", f"CPU, {torch.get_num_threads()} threads, bfloat16", 8 << 30
        )
    )


def measure(setting: Setting | None = None) -> list[Row]:
    """Train the same rows bare and through the lab in turns, and compare the fastest of each."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    setting = setting or Setting(fetch(default_cache(), say=print))
    spec = TuneSpec(
        model="starter",
        dataset="pirate",
        name="bench",
        batch=setting.batch,
        max_steps=setting.steps,
        held_out=0,
    )
    rows = _rows(setting, spec)
    plan = make_plan(spec, len(rows.train), 0, max(rows.lengths), (setting.batch, False))
    bare, ours = [], []
    for _ in range(setting.rounds):
        bare.append(_tokens_per_second(_bare, setting, spec, plan, rows))
        ours.append(_tokens_per_second(_lab, setting, spec, plan, rows))
    share = max(ours) / max(bare)
    words = (
        f"{setting.device.words}, LoRA rank {spec.rank}, {setting.steps} steps, fastest of {setting.rounds}"
    )
    return [
        Row("bare transformers trainer", f"{max(bare):.0f} tokens/s", note=words),
        Row("a fine-tune of the lab", f"{max(ours):.0f} tokens/s"),
        Row("lab / bare", f"{share:.3f}", f"at least {LEAST_SHARE}", share >= LEAST_SHARE),
    ]


def _rows(setting: Setting, spec: TuneSpec) -> Rows:
    pirate = next(sample for sample in sample_datasets() if sample.name == spec.dataset)
    return load_rows(pirate.path, load_tokenizer(setting.folder), 0, lambda: None)


@dataclass
class _Clock:
    """When the first and the latest step were reported, and how many tokens were trained on until then."""

    begun: float = 0.0
    ended: float = 0.0
    steps: int = 0

    def tick(self) -> None:
        """Note that a step was reported."""
        self.ended = time.perf_counter()
        self.begun = self.begun or self.ended
        self.steps += 1


def _tokens_per_second(side: Any, setting: Setting, spec: TuneSpec, plan: Plan, rows: Rows) -> float:
    """Train on one side and return its speed. Both see the same rows: mean lengths do for counts."""
    set_seed(spec.seed)
    model = attach_lora(load_base(setting.folder, setting.device.dtype).to(setting.device.torch), spec)
    model.config.pad_token_id = model.config.pad_token_id or 0
    clock = _Clock()
    with tempfile.TemporaryDirectory() as work:
        side(model, Path(work), clock, setting, spec, plan, rows)
    tokens = setting.batch * sum(rows.lengths) / len(rows.lengths)
    return (clock.steps - 1) * tokens / (clock.ended - clock.begun)


class _TimedJob(LocalJob):
    """A job that notes when each step is told."""

    clock: _Clock

    def emit(self, kind: EventKind, **payload: Any) -> None:
        """Note the steps."""
        if kind == "metric":
            self.clock.tick()
        super().emit(kind, **payload)


def _lab(
    model: Any, work: Path, clock: _Clock, setting: Setting, spec: TuneSpec, plan: Plan, rows: Rows
) -> None:
    job = _TimedJob(work, setting.device, PathShelf(None, work), Voice(io.StringIO(), is_quiet=True))
    job.clock = clock
    train(model, rows, plan, spec, job)


class _Timed(TrainerCallback):
    """Notes when each step is logged."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Note the steps."""
        if "loss" in (logs or {}):
            self.clock.tick()


def _bare(
    model: Any, work: Path, clock: _Clock, setting: Setting, spec: TuneSpec, plan: Plan, rows: Rows
) -> None:
    args: TrainingArguments = training_arguments(spec, plan, setting.device, work)
    args.include_num_input_tokens_seen = "no"
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=features_of(rows.train),
        data_collator=Padding(model.config.pad_token_id),
        callbacks=[_Timed(clock)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
