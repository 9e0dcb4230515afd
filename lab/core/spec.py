"""The base of every spec: complete, frozen, strict, with one canonical spelling.

A spec opens no file and knows no queue. What it names is checked against the catalog when it is submitted.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Lane = Literal["chat", "batch"]


def _not_only_dots(name: object) -> object:
    if isinstance(name, str) and name and not name.strip("."):
        raise ValueError("A name needs at least one letter or digit.")
    return name


LabName = Annotated[str, StringConstraints(pattern=NAME_PATTERN), BeforeValidator(_not_only_dots)]
"""The name of a model or dataset in the lab."""

ModelRef = Annotated[
    str, Field(min_length=1, max_length=4096, description="A model's name (a path on the command line)")
]
"""A model by its name in the catalog; from the command line also a folder's path."""

DataRef = Annotated[
    str, Field(min_length=1, max_length=4096, description="A dataset's name (a path on the command line)")
]
"""A dataset by its name; from the command line also a file's path."""


class Spec(BaseModel):
    """A value object that repeats exactly: frozen, no unknown keys, defaults written in, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class JobSpec(Spec):
    """What one job does, complete: what a worker needs, and all it may use.

    Every kind of job has one subclass with a literal `kind`. The methods say what the job desk has
    to know about any spec; none of them opens a file.
    """

    kind: str

    @property
    def title(self) -> str:
        """The job in words, for lists: "ties merge of pirate and sums"."""
        raise NotImplementedError

    def models_used(self) -> tuple[str, ...]:
        """Return the models that the job reads, in order, each once."""
        return ()

    def datasets_used(self) -> tuple[str, ...]:
        """Return the datasets that the job reads, in order, each once."""
        return ()

    def models_made(self) -> tuple[str, ...]:
        """Return the names under which the job will publish models."""
        return ()


def canonical_json(spec: BaseModel) -> str:
    """Spell a spec in one way: all keys, sorted, no spaces."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def spec_sha256(spec: BaseModel) -> str:
    """Return the recipe's name: sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def strict_json(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no infinity, no key twice.

    Raises:
        ValueError: the text is not strict JSON; the message says why.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    def number(digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{digits} is too large for a number")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r} appears twice")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=number, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def free_name(wish: str, taken: Collection[str]) -> str:
    """Return a name that no model has: the wish, or the wish with the next free number."""
    if wish not in taken:
        return wish
    return next(name for number in range(2, len(taken) + 3) if (name := f"{wish}-{number}") not in taken)
