"""Whether a mixture of experts can be made, before it is queued: from headers and configs."""

from lab.core.job import Shelf
from lab.merge.check import check_room
from lab.merge.expertplan import ExpertsPlan, prepare_experts
from lab.merge.expertspec import ExpertsSpec


def check(spec: ExpertsSpec, shelf: Shelf) -> ExpertsPlan:
    """Work out what a mixture holds, and refuse what can't work.

    Raises:
        BadInput: names the field, what we saw, what we expected and what to do.
    """
    plan = prepare_experts(spec, shelf)
    check_room(plan.size_bytes, shelf, field="dtype")
    return plan
