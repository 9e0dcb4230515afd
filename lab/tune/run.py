"""Run a fine-tune: read, settle the plan, train, save the adapter, fold it in where asked."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from lab.core.errors import BadInput, OutOfMemory
from lab.core.job import Device, Job, NewModel, Outcome
from lab.data.encoding import load_tokenizer
from lab.models.config import read_model_config
from lab.models.headers import read_headers
from lab.models.publish import full_disk_is_failure
from lab.models.runtime import is_out_of_memory
from lab.tune.adapters import save_adapter
from lab.tune.batches import Rows, load_rows
from lab.tune.checkpoints import CHECKPOINTS, latest_complete
from lab.tune.loop import Trained, train
from lab.tune.plan import (
    Plan,
    Weight,
    fit_memory,
    length_limit,
    make_plan,
    memory_bytes,
    plan_in_words,
    smaller_plan,
)
from lab.tune.ready import ready_model
from lab.tune.registry import TuneMethod, tune_methods
from lab.tune.spec import TuneSpec
from lab.tune.team import team

FULL_BYTES = 16 * 2**20
"""A disk with less room than this is full: the last write may have been refused already."""


def run(spec: TuneSpec, job: Job) -> Outcome:
    """Fine-tune a model.

    Returns:
        The adapter, the full model where asked for, and a summary with losses and settings.

    Raises:
        JobFailed: the loss is no number any more, or memory or the disk has run out.
        BadInput: the data turns out not to fit the model.
    """
    disable_progress_bar()
    with full_disk_is_failure("training"), _writers_tell_of_a_full_disk(job.folder):
        return _run(spec, job)


def _run(spec: TuneSpec, job: Job) -> Outcome:
    base, method = job.model(spec.model), tune_methods[spec.method]
    job.progress(0.0, "Reading the data")
    tokenizer = load_tokenizer(base)
    uncut = load_rows(job.dataset(spec.dataset), tokenizer, spec.held_out, job.breathe)
    plan = _settled_plan(spec, job, base, uncut)
    rows = _cut(uncut, plan, job)
    job.progress(0.0, f"Loading {spec.model}")
    job.breathe()
    if job.partners:
        others = " and ".join(partner.name for partner in job.partners)
        job.note(f"Trains on {1 + len(job.partners)} devices at once: {job.device.words} and {others}.")
    kept = latest_complete(job.folder / CHECKPOINTS)
    try:
        with team(spec, plan, job, base, kept) as ranks:
            model = ready_model(base, spec, job.device, tokenizer, ranks)
            trained = train(model, rows, plan, spec, job, ranks)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _out_of_memory(spec, plan, base, job, error) from None
        raise
    adapter = save_adapter(model, tokenizer, spec.model, job.folder / "adapter")
    del model
    models = _models(spec, job, base, method, adapter, trained)
    return Outcome(models, _summary(spec, plan, job, uncut, trained), stopped_early=trained.stopped)


@contextmanager
def _writers_tell_of_a_full_disk(folder: Path) -> Iterator[None]:
    """Turn what torch and safetensors raise on a full disk into the OSError that it is."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free > FULL_BYTES and "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "No space left on device") from error


def _settled_plan(spec: TuneSpec, job: Job, base: Path, uncut: Rows) -> Plan:
    """Return the plan of the first attempt, or make it: a resumed run needs the very same numbers."""
    file = job.folder / "plan.json"
    kept = file.is_file()
    plan = Plan(**json.loads(file.read_text())) if kept else _new_plan(spec, job, base, uncut)
    rows = _rows_of_each(spec, job)
    smaller = smaller_plan(plan, rows) if job.thrift and not plan.is_smaller else None
    if smaller is not None:
        was, now = plan_in_words(plan, rows), plan_in_words(smaller, rows)
        job.note(f"The memory ran out with {was}. It goes on with {now}.", "warning")
        plan = smaller
    if smaller is not None or not kept:
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(plan)))
        draft.replace(file)
    return plan


def _rows_of_each(spec: TuneSpec, job: Job) -> int:
    """Return how many rows of a step each device computes."""
    return spec.batch // (1 + len(job.partners))


def _weight(base: Path, device: Device) -> Weight:
    parameters = sum(tensor.elements for tensor in read_headers(base).values())
    return Weight(read_model_config(base), parameters, 2 if device.dtype in ("bfloat16", "float16") else 4)


def _new_plan(spec: TuneSpec, job: Job, base: Path, uncut: Rows) -> Plan:
    weight = _weight(base, job.device)
    length = length_limit(spec, uncut.lengths, weight.config.context)
    fit = fit_memory(spec, weight, tune_methods[spec.method], length, job.device.free_bytes)
    rows = uncut.cut(length)
    if not rows.train:
        seen = f"No row has an answer within its first {length} tokens."
        raise BadInput(seen, "A model learns from the answers.", "Allow longer rows.", field="max_length")
    return make_plan(spec, len(rows.train), len(rows.held_out), length, fit)


def _cut(uncut: Rows, plan: Plan, job: Job) -> Rows:
    rows = uncut.cut(plan.max_length)
    cut = sum(length > plan.max_length for length in uncut.lengths)
    gone = len(uncut.lengths) - len(rows.lengths)
    if cut:
        left_out = f"; {gone} of them have no answer left and are left out" if gone else ""
        job.note(
            f"{cut} of {len(uncut.lengths)} rows are cut at {plan.max_length} tokens{left_out}.", "warning"
        )
    return rows


def _models(
    spec: TuneSpec, job: Job, base: Path, method: TuneMethod, adapter: Path, trained: Trained
) -> tuple[NewModel, ...]:
    words = f"{spec.method} of {spec.model} on {spec.dataset}, rank {spec.rank}, {trained.steps} steps"
    facts = {"dataset": spec.dataset, "method": spec.method, "rank": spec.rank, "steps": trained.steps}
    facts |= {"base": spec.model, "eval_loss": _last(trained, "eval_loss")}
    if job.partners:
        facts["devices"] = 1 + len(job.partners)
    models = [NewModel(spec.name, adapter, "adapter", (spec.model,), words, facts)]
    if spec.full_model:
        job.progress(1.0, "Folding the adapter into the model")
        job.breathe()
        target = job.folder / "full"
        method.fold(base, adapter, target)
        models.append(
            NewModel(spec.full_name, target, "tuned", (spec.model, spec.name), f"{words}, folded in", facts)
        )
    return tuple(models)


def _summary(spec: TuneSpec, plan: Plan, job: Job, uncut: Rows, trained: Trained) -> dict[str, Any]:
    losses = [entry["loss"] for entry in trained.history if "loss" in entry]
    evaluations = [entry["eval_loss"] for entry in trained.history if "eval_loss" in entry]
    return {
        "steps": trained.steps,
        "loss": sum(losses[-10:]) / len(losses[-10:]) if losses else None,
        "eval_loss_before": evaluations[0] if len(evaluations) > 1 else None,
        "eval_loss": evaluations[-1] if evaluations else None,
        "eval_loss_best": min(evaluations, default=None),
        "rows_cut": sum(length > plan.max_length for length in uncut.lengths),
        "plan": asdict(plan),
        "alpha": spec.lora_alpha,
        "device": job.device.words,
        "devices": 1 + len(job.partners),
        "dtype": job.device.dtype,
        "versions": _versions(),
    }


def _last(trained: Trained, name: str) -> float | None:
    return next((entry[name] for entry in reversed(trained.history) if name in entry), None)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}


def _out_of_memory(spec: TuneSpec, plan: Plan, base: Path, job: Job, error: Exception) -> OutOfMemory:
    need = memory_bytes(
        _weight(base, job.device),
        tune_methods[spec.method],
        spec.rank,
        plan.micro_batch * plan.max_length,
        checkpointing=plan.checkpointing,
        devices=1 + len(job.partners),
    )
    rows = _rows_of_each(spec, job)
    smaller = None if plan.is_smaller else smaller_plan(plan, rows)
    less = f"a micro-batch of {max(1, plan.micro_batch // 2)} (the batch of {spec.batch} stays), " * (
        plan.micro_batch > 1
    )
    return OutOfMemory(
        f"The memory of the device ran out with {plan_in_words(plan, rows)}, rows of {plan.max_length} "
        f"tokens. About {need / 2**30:.1f} GB were expected to do; "
        f"{job.device.free_bytes / 2**30:.1f} GB were free. Run it again with {less}shorter rows "
        f"or method qlora. ({str(error)[:200]})",
        f"with {plan_in_words(smaller, rows)}" if smaller else "",
    )
