"""How a companion trains beside its leader: the same steps on other rows, deciding and saving nothing."""
# ruff: noqa: ARG002  the trainer decides what its callbacks are given

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

from lab.core.job import Device
from lab.tune.batches import Rows
from lab.tune.errand import Errand
from lab.tune.loop import make_learner, training_arguments
from lab.tune.pace import Turn
from lab.tune.plan import Plan
from lab.tune.ranks import Ranks
from lab.tune.ready import ready_model
from lab.tune.spec import TuneSpec


@dataclass
class Follower(TrainerCallback):
    """Does after each step what the leader decided.

    Args:
        plan: the run's numbers.
        ranks: our place among the processes.

    Attributes:
        trainer: the trainer, once it is made.
    """

    plan: Plan
    ranks: Ranks
    trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate our share of the untrained model, as the leader does."""
        if state.global_step == 0 and self.plan.held_out_rows:
            self.trainer.evaluate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hear what follows this step."""
        turn = Turn().agreed(self.ranks)
        if turn.evaluates:
            self.trainer.evaluate()
        turn.tell(control)


def follow(
    errand: Errand, spec: TuneSpec, plan: Plan, device: Device, tokenizer: Any, rows: Rows, ranks: Ranks
) -> None:
    """Train until the leader ends it."""
    disable_progress_bar()
    model = ready_model(Path(errand.base), spec, device, tokenizer, ranks)
    callback = Follower(plan, ranks)
    args = training_arguments(spec, plan, device, Path(errand.checkpoints), ranks.size)
    learner = make_learner(model, rows, args, ranks, callback)
    callback.trainer = learner
    torch.manual_seed(spec.seed + ranks.rank)  # dropout and noise of our own rows
    learner.train(resume_from_checkpoint=errand.checkpoint or None)
