"""Comparisons that say eight numbered words a second without a model, as many as they are asked for."""

import time
from collections.abc import Mapping
from typing import Any

from lab.compare.check import check
from lab.compare.spec import CompareSpec
from lab.core.job import Job, Outcome
from lab.jobs import Kind

__all__ = ["KINDS", "check", "parse_spec", "run"]

WORDS_A_SECOND = 8


def run(spec: CompareSpec, job: Job) -> Outcome:
    """Say as many words as the answer may have tokens, at an even pace."""
    begun = time.monotonic()
    for column in range(len(spec.models)):
        job.emit("column", column=column, phase="writing")
    for number in range(spec.max_new_tokens):
        time.sleep(max(begun + number / WORDS_A_SECOND - time.monotonic(), 0.0))
        for column in range(len(spec.models)):
            job.emit("delta", column=column, text=f"w{number} ")
        if job.stop_asked():
            break
    for column in range(len(spec.models)):
        job.emit("column", column=column, phase="done", stop_reason="length")
    return Outcome(summary={"columns": [{"model": one, "text": ""} for one in spec.models]})


def parse_spec(value: Mapping[str, Any]) -> CompareSpec:
    """Read a stored spec."""
    return CompareSpec.model_validate(value)


KINDS = {"compare": Kind("chat", f"{__name__}:run", f"{__name__}:check", resumable=False, stoppable=True)}
