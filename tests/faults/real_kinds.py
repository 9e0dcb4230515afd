"""The lab's own kinds of jobs, with shards so small that a tiny merge has many. For real_lane.py."""

from functools import partial
from typing import Any

import lab.merge.run
from lab import jobs
from lab.core.job import Job, Outcome
from lab.merge.engine import Engine

SHARD_BYTES = 20_000


def merge(spec: Any, job: Job) -> Outcome:
    lab.merge.run.Engine = partial(Engine, shard_bytes=SHARD_BYTES)  # type: ignore[assignment,misc]
    return lab.merge.run.run(spec, job)


KINDS = {**jobs.KINDS, "merge": jobs.Kind("batch", "real_kinds:merge", "lab.merge.check:check")}
parse_spec = jobs.parse_spec
