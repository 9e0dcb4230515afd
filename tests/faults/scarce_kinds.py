"""Kinds of jobs that run out of something: real fine-tunes with a fault in their fourth step, and toys.

Stands in for `lab.jobs` in the consumer that scarce_lane.py starts. A fine-tune's fault is its name.
"""

import math
import mmap
import resource
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import toy_kind
from scarce_specs import BrokenSpec, HungrySpec

import lab.tune.run
from lab import jobs
from lab.core.job import Job, Outcome
from lab.core.spec import JobSpec
from lab.tune.loop import Learner

BAD_STEP = 3
ROOM = 64 << 20
GREED = 1 << 30

true_step = Learner.training_step


def tune(spec: Any, job: Job) -> Outcome:
    """Run a real fine-tune with the fault that it is named after."""
    Learner.training_step = STEPS[spec.name]  # type: ignore[method-assign]
    return lab.tune.run.run(spec, job)


def _is_time(trainer: Any, inputs: Mapping[str, Any], most_rows: int) -> bool:
    return trainer.state.global_step >= BAD_STEP and len(inputs["input_ids"]) > most_rows


def _full_gpu(trainer: Any, model: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
    """Run out of memory as CUDA does, with more than two rows at once."""
    if _is_time(trainer, inputs, most_rows=2):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return true_step(trainer, model, inputs, *rest)


def _always_full_gpu(trainer: Any, model: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
    """Run out of memory as CUDA does, however few rows there are."""
    if _is_time(trainer, inputs, most_rows=0):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return true_step(trainer, model, inputs, *rest)


def _limited(trainer: Any, model: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
    """Have the system itself refuse memory, with more than two rows at once."""
    if _is_time(trainer, inputs, most_rows=2):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.RLIM_INFINITY))
        torch.ones(GREED, dtype=torch.uint8)
    return true_step(trainer, model, inputs, *rest)


def _diverged(trainer: Any, model: Any, inputs: Mapping[str, Any], *rest: Any) -> Any:
    """Train with a weight that is no number."""
    if _is_time(trainer, inputs, most_rows=0):
        with torch.no_grad():
            next(weight for weight in model.parameters() if weight.requires_grad).fill_(math.nan)
    return true_step(trainer, model, inputs, *rest)


STEPS = {
    "full-gpu": _full_gpu,
    "always-full-gpu": _always_full_gpu,
    "limited": _limited,
    "diverged": _diverged,
}


def hungry(spec: Any, job: Job) -> Outcome:
    """Once told to go, take more memory than anybody has; in a smaller plan, take none."""
    outcome = toy_kind.run(spec, job)
    eaten = []
    while job.thrift == 0:
        job.breathe()
        threading.Event().wait(0.02)
        if (job.folder.parent / "go").exists():
            eaten.append(b"x" * (8 << 20))
    return outcome


def broken(spec: Any, job: Job) -> Outcome:
    """Fail as CUDA does for good on the first device; be well on any other."""
    outcome = toy_kind.run(spec, job)
    if job.device.words == "first":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return outcome


class Kind:
    """A kind by its function."""

    def __init__(self, run: Any) -> None:
        self.load_run = lambda: run


KINDS = {"tune": Kind(tune), "hungry": Kind(hungry), "broken": Kind(broken)}
SPECS: dict[str, type[JobSpec]] = {"hungry": HungrySpec, "broken": BrokenSpec}


def parse_spec(value: Mapping[str, Any]) -> JobSpec:
    own = SPECS.get(value["kind"])
    return own.model_validate(value) if own else jobs.parse_spec(value)
