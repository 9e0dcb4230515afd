"""A stored recipe, ready to be run again: the same in everything but the names of what it makes."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ValidationError

from lab.core.errors import BadInput, LabError, problems_of
from lab.core.spec import JobSpec, free_name

_LONGEST_WISH = 60
"""A name has 64 characters, and the number needs a few."""


Parse = Callable[[Mapping[str, Any]], JobSpec]
"""What reads a stored spec."""


def models_made(spec: Mapping[str, Any], parse: Parse) -> tuple[str, ...]:
    """Return the models that a stored spec makes; none where it can't be read any more."""
    try:
        return parse(spec).models_made()
    except (ValidationError, LabError):
        return ()


def repeated(spec: Mapping[str, Any], taken: Collection[str], parse: Parse) -> JobSpec:
    """Return a recipe whose models get free names: pirate-lora becomes pirate-lora-2.

    Args:
        spec: a stored spec.
        taken: the names of all models that there are or will be.
        parse: reads a stored spec.

    Raises:
        BadInput: the recipe was stored by another release and can't be read any more.
    """
    try:
        made = parse(spec).models_made()
        names = {name: free_name(name if name not in taken else name[:_LONGEST_WISH], taken) for name in made}
        fresh = {
            key: names.get(value, value) if isinstance(value, str) and "name" in key else value
            for key, value in spec.items()
        }
        return parse(fresh)
    except (ValidationError, LabError) as error:
        why = "; ".join(str(problem) for problem in problems_of(error))
        raise BadInput(
            f"The stored recipe can't be read: {why}", "A recipe of this release.", "Make it anew."
        ) from error
