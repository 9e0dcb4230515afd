"""The lab's own kinds of jobs; the first attempt of one named `held-...` stands still in its middle.

It goes on breathing there, so that it ends by itself when its lease can't be renewed. For host_lane.py.
"""

import time
from collections.abc import Callable
from typing import Any

import real_kinds

from lab import jobs
from lab.core.job import Job, Outcome

MERGE_BREATHS, TUNE_STEPS = 25, 8
HELD = "held in its middle"


def merge(spec: Any, job: Job) -> Outcome:
    breaths = iter(range(MERGE_BREATHS))
    _hold(spec, job, lambda: next(breaths, None) is None)
    return real_kinds.merge(spec, job)


def tune(spec: Any, job: Job) -> Outcome:
    from lab.tune.run import run

    steps: list[str] = []
    emit = job.emit

    def count(kind: Any, **payload: Any) -> None:
        steps.extend(["step"] * (kind == "metric"))
        emit(kind, **payload)

    job.emit = count  # type: ignore[method-assign]
    _hold(spec, job, lambda: len(steps) >= TUNE_STEPS)
    return run(spec, job)


def _hold(spec: Any, job: Job, is_midway: Callable[[], bool]) -> None:
    if not spec.name.startswith("held-") or job.attempt > 1:
        return
    breathe = job.breathe

    def stand_still() -> None:
        breathe()
        if is_midway():
            job.note(HELD)
            while True:
                breathe()
                time.sleep(0.1)

    job.breathe = stand_still  # type: ignore[method-assign]


KINDS = {
    **real_kinds.KINDS,
    "merge": jobs.Kind("batch", "host_kinds:merge", "lab.merge.check:check"),
    "tune": jobs.Kind("batch", "host_kinds:tune", "lab.tune.check:check", stoppable=True),
}
parse_spec = jobs.parse_spec
