"""The training loop: transformers' Trainer with a job's settings. Imported by job processes only."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lab.core.errors import JobFailed
from lab.core.job import Device, Job
from lab.tune.batches import Padding, Rows, features_of
from lab.tune.checkpoints import CHECKPOINTS, latest_complete, step_of
from lab.tune.pace import Pace
from lab.tune.plan import Plan
from lab.tune.ranks import ALONE, Ranks
from lab.tune.spec import TuneSpec

RNG_OF_ONE, RNG_OF_THE_LEADER = "rng_state.pth", "rng_state_0.pth"
"""How the trainer names the state of the random numbers, for one process and for the first of several."""


@dataclass(frozen=True)
class Trained:
    """How a training run ended.

    Attributes:
        steps: optimiser steps taken, over all attempts.
        stopped: whether its owner stopped it early.
        history: what was logged, in order: dicts with step and loss or eval_loss.
    """

    steps: int
    stopped: bool
    history: list[dict[str, Any]]


class Learner(Trainer):
    """The trainer, but a loss that is no number ends the run at its step, before a weight is changed.

    Attributes:
        ranks: our place among the processes of the fine-tune. Only the leader saves, and what it saves is
            the same for any number of them.
        pace: what happens between two steps; the leader's only.
    """

    ranks: Ranks = ALONE
    pace: Pace | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute loss and gradients of one micro-batch.

        Raises:
            JobFailed: the loss is no number.
        """
        loss = super().training_step(*args, **kwargs)
        if not self.ranks.all_say(bool(loss.isfinite().all())):
            step = self.state.global_step + 1
            raise self.pace.no_number(step, float(loss)) if self.pace else JobFailed("nan_loss", f"{step}")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; the loss of a micro-batch is its own mean, however many are computed at once."""
        self.args.average_tokens_across_devices = False
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.args.average_tokens_across_devices = True

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.ranks.leads:
            super()._save_checkpoint(*args, **kwargs)
        else:
            self.store_flos()  # all processes sum them up when one saves

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.ranks.size > 1:
            (Path(output_dir) / RNG_OF_THE_LEADER).rename(Path(output_dir) / RNG_OF_ONE)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.ranks.size == 1 or checkpoint is None:
            super()._load_rng_state(checkpoint)
        elif self.ranks.leads:
            with TemporaryDirectory() as folder:  # the name under which the trainer looks for it
                (Path(folder) / RNG_OF_THE_LEADER).symlink_to(Path(checkpoint).absolute() / RNG_OF_ONE)
                super()._load_rng_state(folder)


def make_learner(
    model: Any, rows: Rows, args: TrainingArguments, ranks: Ranks, callback: TrainerCallback
) -> Learner:
    """Return the trainer of one process of a fine-tune.

    Args:
        model: what the method prepared; changed in place.
        rows: cut to the plan's length; the same in every process.
        args: the trainer's settings.
        ranks: our place among the processes.
        callback: what happens between two steps.
    """
    learner = Learner(
        model=model,
        args=args,
        train_dataset=features_of(rows.train),
        eval_dataset=features_of(rows.held_out) or None,
        data_collator=Padding(model.config.pad_token_id or 0, trims=_takes_positions(model)),
        callbacks=[callback],
    )
    learner.remove_callback(PrinterCallback)
    learner.ranks = ranks
    return learner


def train(model: Any, rows: Rows, plan: Plan, spec: TuneSpec, job: Job, ranks: Ranks = ALONE) -> Trained:
    """Train a prepared model, from the last good checkpoint of the job where there is one.

    Args:
        model: what the method prepared; changed in place.
        rows: cut to the plan's length.
        plan: the run's numbers.
        spec: what was asked for.
        job: its folder holds the checkpoints.
        ranks: our place among the processes of the fine-tune; we lead.

    Raises:
        ControlFlow: cancelled, released (a checkpoint is written then) or fenced.
        JobFailed: the loss is no number any more.
    """
    folder = job.folder / CHECKPOINTS
    kept = latest_complete(folder)
    if kept is not None:
        job.note(f"Going on from the checkpoint of step {step_of(kept)}.")
    pace = Pace(job, plan, spec.checkpoint_steps, ranks)
    args = training_arguments(spec, plan, job.device, folder, ranks.size)
    trainer = make_learner(model, rows, args, ranks, pace)
    pace.trainer, trainer.pace = trainer, pace
    try:
        if kept is not None and step_of(kept) >= plan.steps:  # it died after the last step
            return _finished_before(trainer, kept)
        trainer.train(resume_from_checkpoint=str(kept) if kept else None)
    finally:
        remove_noise(trainer)
    if pace.released is not None:
        raise pace.released
    return Trained(trainer.state.global_step, pace.stopped, list(trainer.state.log_history))


def _takes_positions(model: Any) -> bool:
    """Whether the model can be told for which positions to compute logits."""
    return "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters


def training_arguments(
    spec: TuneSpec, plan: Plan, device: Device, folder: Path, processes: int = 1
) -> TrainingArguments:
    """Return the trainer's settings: nothing is reported, printed or saved but by us.

    Args:
        spec: what was asked for.
        plan: the run's numbers.
        device: where this process computes.
        folder: where checkpoints go.
        processes: among how many the rows of a step are shared out.
    """
    is_cuda = device.torch.startswith("cuda")
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.micro_batch,
        per_device_eval_batch_size=plan.micro_batch,
        gradient_accumulation_steps=spec.batch // (plan.micro_batch * processes),
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.scheduler if spec.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=plan.warmup_steps,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.grad_clip,
        neftune_noise_alpha=spec.neftune_alpha or None,
        optim="paged_adamw_8bit" if is_cuda and spec.method == "qlora" else "adamw_torch_fused",
        activation_checkpointing=plan.checkpointing,
        bf16=is_cuda and device.dtype == "bfloat16",
        use_cpu=not is_cuda,
        dataloader_pin_memory=is_cuda,
        ddp_find_unused_parameters=False,
        seed=spec.seed,
        data_seed=spec.seed,  # the order of the rows, the same in every process
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        include_num_input_tokens_seen="non_padding",
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _finished_before(trainer: Trainer, kept: Path) -> Trained:
    """Take up a run whose last step was kept by an earlier attempt."""
    from transformers import TrainerState

    trainer.model.load_adapter(str(kept), trainer.model.active_adapter, is_trainable=True)
    state = TrainerState.load_from_json(str(kept / "trainer_state.json"))
    return Trained(state.global_step, False, list(state.log_history))


def remove_noise(trainer: Trainer) -> None:
    """Take NEFTune's hook off again: the trainer leaves it behind when a run ends with an exception."""
    handle = getattr(trainer, "neftune_hook_handle", None)
    if handle is not None:
        handle.remove()
