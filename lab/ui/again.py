"""A stored recipe, ready to be run again: the same in everything but the names of what it makes."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.spec import JobSpec
from lab.core.store.rows import JobRow
from lab.jobs import parse_spec
from lab.ui.modelview import free_name

_LONGEST_WISH = 60
"""A name has 64 characters, and the number needs a few."""


def models_made(job: JobRow) -> tuple[str, ...]:
    """Return the models that a job makes; none where its recipe can't be read any more."""
    try:
        return parse_spec(job.spec).models_made()
    except (ValidationError, LabError):
        return ()


def repeated(spec: Mapping[str, Any], taken: Collection[str]) -> JobSpec:
    """Return a recipe whose models get free names: pirate-lora becomes pirate-lora-2.

    Args:
        spec: a stored spec.
        taken: the names of all models that there are or will be.

    Raises:
        BadInput: the recipe was stored by another release and can't be read any more.
    """
    try:
        made = parse_spec(spec).models_made()
        names = {name: free_name(name[:_LONGEST_WISH], sorted(taken)) for name in made}
        fresh = {
            key: names.get(value, value) if isinstance(value, str) and "name" in key else value
            for key, value in spec.items()
        }
        return parse_spec(fresh)
    except (ValidationError, LabError) as error:
        why = "; ".join(str(problem) for problem in problems_of(error))
        raise BadInput(
            f"The stored recipe can't be read: {why}", "A recipe of this release.", "Make it anew."
        ) from error
