"""What a fine-tune comes to in numbers: steps, lengths, micro-batches and memory. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.models.config import ModelConfig
from lab.tune.registry import TuneMethod
from lab.tune.spec import TuneSpec

PROCESS_BYTES = 700 * 2**20
"""Python with torch, transformers and peft loaded."""

LOGIT_BYTES = 20
"""Memory of one logit while its loss is computed: the value, its float32 copy, gradients."""

LONGEST_CHOICE = 2048
MOST_POINTS = 1000
"""So many points of the loss curve at most."""

FULLEST = 0.9
"""Share of the free memory that a plan may use."""


@dataclass(frozen=True)
class Plan:
    """Everything about a run that the spec leaves open, settled once and kept for later attempts.

    Attributes:
        train_rows, held_out_rows: rows to learn from and to evaluate on.
        max_length: tokens after which a row is cut.
        micro_batch: rows in memory at once; divides the batch.
        steps, steps_per_epoch: optimiser steps.
        warmup_steps: of these, how many warm up.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        log_every: steps between points of the loss curve.
        checkpointing: whether activations are computed twice to save memory.
        is_smaller: whether it was made smaller after the memory had run out.
    """

    train_rows: int
    held_out_rows: int
    max_length: int
    micro_batch: int
    steps: int
    steps_per_epoch: int
    warmup_steps: int
    eval_every: int
    log_every: int
    checkpointing: bool
    is_smaller: bool = False


def length_limit(spec: TuneSpec, lengths: Sequence[int], context: int) -> int:
    """Return after how many tokens rows are cut.

    Args:
        spec: says so itself, or leaves it open.
        lengths: tokens of every row.
        context: the longest sequence the model was made for; 0 when unknown.
    """
    longest = context or LONGEST_CHOICE
    if spec.max_length is not None:
        return min(spec.max_length, longest)
    ordered = sorted(lengths)
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] if ordered else longest
    return max(8, min(p99, LONGEST_CHOICE, longest))


def epochs_of(spec: TuneSpec, rows: int) -> float:
    """Return how often to go through the data: the fewer rows, the more often."""
    if spec.epochs is not None:
        return spec.epochs
    return 3.0 if rows < 2000 else 2.0 if rows < 20_000 else 1.0


def steps_of(spec: TuneSpec, rows: int) -> tuple[int, int]:
    """Return the optimiser steps of the whole run and of one epoch."""
    per_epoch = max(1, math.ceil(rows / spec.batch))
    return spec.max_steps or max(1, math.ceil(epochs_of(spec, rows) * per_epoch)), per_epoch


def make_plan(
    spec: TuneSpec, train_rows: int, held_out_rows: int, max_length: int, fit: tuple[int, bool]
) -> Plan:
    """Settle a run's numbers.

    Args:
        spec: what was asked for.
        train_rows: rows to learn from, at least one.
        held_out_rows: rows to evaluate on.
        max_length: tokens after which rows are cut.
        fit: micro-batch and checkpointing, from `fit_memory`.
    """
    steps, per_epoch = steps_of(spec, train_rows)
    warmup = min(100, max(1, round(spec.warmup_ratio * steps))) if spec.warmup_ratio else 0
    return Plan(
        train_rows=train_rows,
        held_out_rows=held_out_rows,
        max_length=max_length,
        micro_batch=fit[0],
        steps=steps,
        steps_per_epoch=per_epoch,
        warmup_steps=warmup,
        eval_every=math.ceil(min(per_epoch, steps) / spec.evaluations) if spec.evaluations else 0,
        log_every=math.ceil(steps / MOST_POINTS),
        checkpointing=fit[1],
    )


def smaller_plan(plan: Plan, batch: int) -> Plan | None:
    """Return the plan to try when the memory ran out: half the rows at once, accumulated twice as often.

    Where there is one row at once, activations are computed twice instead. The steps, and what a step
    learns from, stay as they are.

    Args:
        plan: the one that was too large.
        batch: rows of a step.

    Returns:
        None when there is nothing smaller.
    """
    fewer = [size for size in range(1, plan.micro_batch // 2 + 1) if batch % size == 0]
    if fewer:
        return replace(plan, micro_batch=fewer[-1], is_smaller=True)
    return None if plan.checkpointing else replace(plan, checkpointing=True, is_smaller=True)


def plan_in_words(plan: Plan, batch: int) -> str:
    """Say how many rows are in memory at once and how a step comes to its batch."""
    times = batch // plan.micro_batch
    rows = f"{plan.micro_batch} row{'s' if plan.micro_batch > 1 else ''} at once"
    gathered = f", gathered {times} times to the batch of {batch}" if times > 1 else ""
    twice = ", activations computed twice" if plan.checkpointing else ""
    return f"{rows}{gathered}{twice}"


@dataclass(frozen=True)
class Weight:
    """A model by what its training costs.

    Attributes:
        config: its sizes.
        parameters: all of its weights.
        dtype_bytes: bytes of one number in the precision of the device.
    """

    config: ModelConfig
    parameters: int
    dtype_bytes: int

    @property
    def linear(self) -> int:
        """Weights of the linear layers, which LoRA is put beside and QLoRA keeps in 4 bits."""
        return sum(rows * columns for rows, columns in self._shapes()) * self.config.layers

    def divided_by(self, parts: int) -> "Weight":
        """Return a model of the same shape with so much fewer layers and weights."""
        config = replace(self.config, layers=max(1, self.config.layers // parts))
        return replace(self, config=config, parameters=self.parameters // parts)

    def lora(self, rank: int) -> int:
        """Return the trained weights at a rank."""
        return rank * sum(rows + columns for rows, columns in self._shapes()) * self.config.layers

    def _shapes(self) -> list[tuple[int, int]]:
        config = self.config
        query, key = config.heads * config.head_size, config.kv_heads * config.head_size
        wide = config.intermediate or 4 * config.hidden
        attention = [
            (query, config.hidden),
            (key, config.hidden),
            (key, config.hidden),
            (config.hidden, query),
        ]
        return [*attention, (wide, config.hidden), (wide, config.hidden), (config.hidden, wide)]


def memory_bytes(
    weight: Weight,
    method: TuneMethod,
    rank: int,
    tokens: int,
    *,
    checkpointing: bool = False,
    devices: int = 1,
) -> int:
    """Estimate the peak memory of training, within about a quarter.

    Args:
        weight: the model.
        method: what keeps the frozen weights how small.
        rank: of the adapter.
        tokens: rows in memory at once, times their length.
        checkpointing: whether activations are computed twice instead of kept.
        devices: among how many the linear layers are shared out; the peak is that of each. Two layers are
            whole at a time, and the embeddings all the while.
    """
    config, number = weight.config, weight.dtype_bytes
    shared = weight.linear / devices + (2 * weight.linear / max(1, config.layers) if devices > 1 else 0)
    frozen_linear = min(shared, weight.linear) * (method.linear_bytes or number)
    other = max(weight.parameters - weight.linear, 0) * (4 if method.linear_bytes else number)
    trained = 16 * weight.lora(rank)  # float32 weights, gradients and Adam's two moments
    wide = config.intermediate or 4 * config.hidden
    a_layer = tokens * (13 * config.hidden + 6 * wide) * number
    kept = (
        tokens * config.hidden * number * config.layers + a_layer
        if checkpointing
        else a_layer * config.layers
    )
    logits = tokens * config.vocab * LOGIT_BYTES
    return int(PROCESS_BYTES + frozen_linear + other + trained + kept + logits)


def fit_memory(
    spec: TuneSpec, weight: Weight, method: TuneMethod, length: int, free_bytes: int
) -> tuple[int, bool]:
    """Choose the largest micro-batch up to 8 that fits, computing activations twice only if one row doesn't.

    Returns:
        Micro-batch and checkpointing. When nothing fits, the smallest there is: the estimate may be wrong.
    """
    most = min(spec.batch // spec.devices, 8)
    sizes = [size for size in range(most, 0, -1) if spec.batch % (size * spec.devices) == 0]
    choices = [spec.micro_batch] if spec.micro_batch else sizes
    for checkpointing in (False, True):
        for size in choices:
            need = memory_bytes(
                weight,
                method,
                spec.rank,
                size * length,
                checkpointing=checkpointing,
                devices=spec.devices,
            )
            if need <= FULLEST * free_bytes:
                return size, checkpointing
    return choices[-1], True
