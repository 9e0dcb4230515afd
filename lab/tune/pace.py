"""What happens between two steps: breathe, tell how it goes, evaluate, keep checkpoints, stop.

A callback of transformers' Trainer, so only job processes import it.
"""
# ruff: noqa: ARG002  the trainer decides what its callbacks are given

import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lab.core.errors import JobFailed, Released
from lab.core.job import Job
from lab.tune.checkpoints import PREFIX, latest_complete, mark_complete, step_of
from lab.tune.plan import Plan
from lab.tune.ranks import ALONE, Ranks

CHECKPOINT_SECONDS = 60.0
"""A crash costs at most about a minute of work."""

TIMED_STEPS = 20
"""So many recent steps decide the speed and the time left."""


@dataclass(frozen=True)
class Turn:
    """What follows a step, in every process of a fine-tune: evaluate, save, end."""

    evaluates: bool = False
    saves: bool = False
    ends: bool = False

    def agreed(self, ranks: Ranks) -> "Turn":
        """Return the leader's, whoever asks."""
        return Turn(*ranks.agree((self.evaluates, self.saves, self.ends)))

    def tell(self, control: Any) -> None:
        """Have the trainer do it. A loss that is no number is noticed before it is kept: so it is logged."""
        control.should_log = control.should_log or self.evaluates or self.saves
        control.should_save = control.should_save or self.saves
        control.should_training_stop = control.should_training_stop or self.ends


@dataclass
class Pace(TrainerCallback):
    """Runs a trainer at a job's pace.

    Args:
        job: what is told, and who may end it.
        plan: the run's numbers.
        checkpoint_steps: steps between checkpoints; None keeps one about every minute.
        ranks: our place among the processes of the fine-tune; what we decide holds for all.

    Attributes:
        trainer: the trainer, once it is made.
        released: the worker's wish to shut down, to be raised once the checkpoint is written.
        stopped: whether the owner asked to stop and keep.
    """

    job: Job
    plan: Plan
    checkpoint_steps: int | None
    ranks: Ranks = ALONE
    trainer: Any = None
    released: Released | None = None
    stopped: bool = False
    _timed: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=TIMED_STEPS))
    _tokens: int = 0
    _begun: float = 0.0
    _saved: float = 0.0
    _eval_seconds: float = 0.0
    _eval_loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the untrained model, so that the curve has a beginning."""
        self._saved = time.monotonic()
        self._tokens = state.num_input_tokens_seen
        if state.global_step == 0 and self.plan.held_out_rows:
            self.job.progress(0.0, "Evaluating the model as it is")
            self._evaluate()
            self.job.emit("metric", step=0, values={"eval_loss": self._take_eval_loss()})

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self._begun = time.monotonic()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notice a cancel between micro-batches."""
        self._breathe()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notice a cancel between the batches of an evaluation."""
        self._breathe()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide what follows this step."""
        self._timed.append((state.num_input_tokens_seen - self._tokens, time.monotonic() - self._begun))
        self._tokens = state.num_input_tokens_seen
        self._breathe()
        self.stopped = self.stopped or self.job.stop_asked()
        is_last = state.global_step >= self.plan.steps or self.stopped
        is_due = self.plan.eval_every and state.global_step % self.plan.eval_every == 0
        evaluates = bool(self.plan.held_out_rows and (is_last or is_due)) and self.released is None
        saves = is_last or self.released is not None or self._is_checkpoint_due(state.global_step)
        turn = Turn(evaluates, saves, ends=self.released is not None or self.stopped).agreed(self.ranks)
        if turn.evaluates:
            self._evaluate()
        turn.tell(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Tell the figures of a step.

        Raises:
            JobFailed: the loss or the gradient is no number any more.
        """
        if not logs or "loss" not in logs:
            return
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
            raise self.no_number(state.global_step, logs["loss"])
        values = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        tokens, seconds = (
            (sum(column) for column in zip(*self._timed, strict=True)) if self._timed else (0, 0)
        )
        if seconds:
            values["tokens_per_second"] = tokens / seconds
        if (loss := self._take_eval_loss()) is not None:
            values["eval_loss"] = loss
        self.job.emit("metric", step=state.global_step, values=values)
        self.job.progress(
            state.global_step / self.plan.steps,
            f"Step {state.global_step} of {self.plan.steps}, loss {logs['loss']:.3f}",
            self._seconds_left(state.global_step),
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the checkpoint one that a later attempt trusts."""
        mark_complete(Path(args.output_dir) / f"{PREFIX}{state.global_step}")
        self._saved = time.monotonic()

    def _breathe(self) -> None:
        """Breathe, but let a step end and its checkpoint be written before the worker shuts down."""
        try:
            self.job.breathe()
        except Released as wish:
            self.released = wish

    def _is_checkpoint_due(self, step: int) -> bool:
        if self.checkpoint_steps is not None:
            return step % self.checkpoint_steps == 0
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    def _evaluate(self) -> None:
        begun = time.monotonic()
        self._eval_loss = self.trainer.evaluate().get("eval_loss")
        self._eval_seconds = time.monotonic() - begun

    def _take_eval_loss(self) -> float | None:
        loss, self._eval_loss = self._eval_loss, None
        return loss if loss is not None and math.isfinite(loss) else None

    def _seconds_left(self, step: int) -> float | None:
        if not self._timed:
            return None
        left = self.plan.steps - step
        evaluations = math.ceil(left / self.plan.eval_every) if self.plan.eval_every else min(left, 1)
        a_step = sum(seconds for _, seconds in self._timed) / len(self._timed)
        return left * a_step + evaluations * self._eval_seconds

    def no_number(self, step: int, loss: float) -> JobFailed:
        """Return the failure of a run whose loss is no number at a step, with its last good checkpoint."""
        kept = latest_complete(Path(self.trainer.args.output_dir))
        good = (
            f"The last good checkpoint, of step {step_of(kept)}, is kept in the job's folder." if kept else ""
        )
        return JobFailed(
            "nan_loss",
            f"The loss is {loss} at step {step}: training has diverged and nothing was published. {good} "
            "Try a learning rate ten times smaller, or a gradient clip of 1.".replace("  ", " "),
            keep=kept,
        )
