"""A kind of job that does nothing, to see what a job costs beside its work. For noop_lane.py."""

from collections.abc import Mapping
from typing import Any, Literal

from lab.core.job import Job, Outcome, Shelf
from lab.core.spec import JobSpec
from lab.jobs import Kind


class NoopSpec(JobSpec):
    """Nothing to do; the number makes every wish one of its own."""

    kind: Literal["noop"] = "noop"
    number: int = 0

    @property
    def title(self) -> str:
        """The job in words."""
        return f"nothing, the {self.number}th time"


def run(spec: NoopSpec, job: Job) -> Outcome:  # noqa: ARG001  the signature of every kind of job
    """Do nothing."""
    return Outcome()


def check(spec: NoopSpec, shelf: Shelf) -> object:  # noqa: ARG001  the signature of every check
    """Find nothing wrong."""
    return None


def parse_spec(value: Mapping[str, Any]) -> NoopSpec:
    """Read a stored spec."""
    return NoopSpec.model_validate(value)


KINDS = {"noop": Kind("chat", f"{__name__}:run", f"{__name__}:check")}
