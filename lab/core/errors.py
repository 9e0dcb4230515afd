"""Every error of the lab, by who must act.

- LabError
    - BadInput            the person who filled the form or wrote the file
        - UnknownName     the same, with the nearest known name
        - NotFound        the same: it was there once, or never
        - Conflict        the same: the name or key is taken
    - JobFailed           the person who sent the job: carries a code that the page explains
        - OutOfMemory     the same, unless a smaller plan is tried first
        - ProcessLost     the same, once it has been tried again from its last checkpoint
    - Unavailable         nobody: the database does not answer now; wait and try again
    - IllegalTransition   whoever wrote the code that asked for it
    - ControlFlow         nobody: these end a run on purpose
        - Fenced          another attempt owns the job
        - Cancelled       its owner cancelled the job
        - Released        the worker is shutting down; the job goes back to the queue
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import ValidationError


class LabError(Exception):
    """The root of the tree: catch it to catch what the lab raises on purpose."""


class BadInput(LabError, ValueError):
    """What somebody gave us can't be used.

    It is a ValueError too, so that pydantic collects it when a spec raises it.

    Args:
        saw: what we saw, as a sentence.
        expected: what we expected, as a sentence.
        do: what to do about it, as a sentence.
        field: dotted path of the form field or key at fault, where there is one.
    """

    def __init__(self, saw: str, expected: str = "", do: str = "", *, field: str | None = None) -> None:
        self.saw, self.expected, self.do, self.field = saw, expected, do, field
        super().__init__(" ".join(part for part in (saw, expected, do) if part))

    def at(self, field: str) -> Self:
        """Return the same error, naming the field at fault."""
        return type(self)(self.saw, self.expected, self.do, field=field)


class UnknownName(BadInput):
    """A name that is not in a registry or catalog."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> Self:
        """Say which known name is nearest, then list them all."""
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        return cls(f"There is no {what} {name!r}.", hint, f"Known: {', '.join(names) or 'none yet'}.")


class NotFound(BadInput):
    """A job, model or dataset that is not there."""


class Conflict(BadInput):
    """A name or a key that is already taken."""


class JobFailed(LabError):
    """A job can't go on, for a reason that its owner should read.

    Args:
        code: a short stable word, such as `disk_full` or `out_of_memory`.
        text: what happened, what it means for the work, what to do.
        keep: a folder in the job's own that is worth keeping after it.
    """

    def __init__(self, code: str, text: str, keep: Path | None = None) -> None:
        self.code, self.keep = code, keep
        super().__init__(text)


class OutOfMemory(JobFailed):
    """The memory ran out, as estimated against what was free.

    Args:
        text: what its owner reads if the job is not tried again.
        smaller: the plan in which it is tried again, in words; empty where there is no smaller one.
    """

    def __init__(self, text: str, smaller: str = "") -> None:
        self.smaller = smaller
        super().__init__("out_of_memory", text)


class ProcessLost(JobFailed):
    """One of several processes of a job died; for the job it is as if its only one had.

    Args:
        why: which one and how, as the rest of a sentence.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__("interrupted", f"The job was cut off: {why}. Run it again.")


class Unavailable(LabError):
    """The database does not answer, or can't be written now. Nothing was changed: wait and try again."""


class IllegalTransition(LabError):
    """A state change that is not one of the ten legal ones."""


class ControlFlow(LabError):
    """Ends a run on purpose; never a fault."""


class Fenced(ControlFlow):
    """Another attempt owns the job now: write nothing, stop at once."""


class Cancelled(ControlFlow):
    """The job's owner asked for it to end."""


class Released(ControlFlow):
    """The worker is shutting down: keep a checkpoint and let the job go back to the queue."""


@dataclass(frozen=True)
class Problem:
    """One line for a form: the field it concerns ("" for the whole form) and what is wrong."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def problems_of(error: ValidationError | LabError) -> list[Problem]:
    """Turn a refused spec or a lab error into lines for the form.

    Args:
        error: what a spec's validation or a check before submitting raised.

    Returns:
        One problem for each fault, in the order found. Never a traceback.
    """
    if isinstance(error, LabError):
        return [Problem(getattr(error, "field", None) or "", str(error))]
    return [
        Problem(".".join(str(part) for part in fault["loc"]), _sentence(fault["msg"], fault.get("input")))
        for fault in error.errors(include_url=False)
    ]


def _sentence(message: str, seen: object) -> str:
    text = message.removeprefix("Value error, ")
    if text != message or isinstance(seen, dict | list | tuple):
        return text
    return f"{text}; we saw {str(seen)[:80]!r}."
