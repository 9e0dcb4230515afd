"""What is scored: multiple-choice and text files, one JSON object a line, and the small sets that ship.

A score over half a file is another score, so a file with a bad line is refused whole, with its line numbers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from lab.core.errors import BadInput, problems_of
from lab.core.job import Shelf
from lab.core.spec import strict_json

SHIPPED_CHOICES = "lab:mc40"
SHIPPED_TEXT = "lab:text5"
SHIPPED = {SHIPPED_CHOICES: "mc40.jsonl", SHIPPED_TEXT: "text5.jsonl"}
"""The sets that ship with the project, hand-written for it. The colon tells them from datasets."""

LABELS = {SHIPPED_CHOICES: "40 everyday questions", SHIPPED_TEXT: "5 short texts"}

FILE_BYTES = 64 << 20
BAD_LINES_SHOWN = 5

_Text = Annotated[str, StringConstraints(min_length=1)]


class _Row(BaseModel):
    """A line of a file; keys that we don't know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Question(_Row):
    """One multiple-choice question.

    Attributes:
        question: its text, without "Question:".
        choices: two or more answers, in words.
        answer: index of the right one, from 0.
    """

    question: _Text
    choices: Annotated[tuple[_Text, ...], Field(min_length=2, max_length=64, strict=False)]
    answer: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "Question":
        if self.answer >= len(self.choices):
            raise ValueError(
                f"answer is {self.answer}, but the {len(self.choices)} choices count from 0 to "
                f"{len(self.choices) - 1}."
            )
        return self


class Document(_Row):
    """One text."""

    text: _Text


Row = TypeVar("Row", bound=_Row)


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Read a multiple-choice file: {"question", "choices", "answer"} a line, `answer` an index from 0.

    Args:
        path: a JSONL file in UTF-8.
        limit: keep only the first so many.

    Raises:
        BadInput: the file can't be read, is empty, or has bad lines (with their numbers).
    """
    shape = 'Each line is {"question": text, "choices": [text, ...], "answer": index from 0}.'
    return _read(path, Question.model_validate, shape, "multiple_choice")[:limit]


def read_documents(path: Path, limit: int | None = None) -> list[Document]:
    """Read a text file: {"text"} a line. The arguments and errors are those of `read_questions`."""
    return _read(path, Document.model_validate, 'Each line is {"text": text}.', "text")[:limit]


def place(ref: str, shelf: Shelf) -> Path:
    """Return the file of a shipped set or of a dataset.

    Raises:
        NotFound: there is no such dataset.
    """
    if ref in SHIPPED:
        return Path(__file__).parent / "sets" / SHIPPED[ref]
    return shelf.dataset(ref)


def _read(path: Path, parse: Callable[[object], Row], shape: str, field: str) -> list[Row]:
    rows: list[Row] = []
    bad: list[str] = []
    for number, line in enumerate(_lines(path, field), 1):
        if not line.strip():
            continue
        try:
            rows.append(parse(strict_json(line.decode())))
        except ValidationError as error:
            bad.append(f"line {number}: {'; '.join(str(problem) for problem in problems_of(error))}")
        except ValueError as error:  # a UnicodeDecodeError or a JSONDecodeError is one too
            bad.append(f"line {number}: {_why(error)}")
    if bad:
        shown = " ".join(f"{words.rstrip('.')}." for words in bad[:BAD_LINES_SHOWN])
        more = f" And {len(bad) - BAD_LINES_SHOWN:,} more." if len(bad) > BAD_LINES_SHOWN else ""
        raise BadInput(
            f"{path.name} has lines that can't be scored: {shown}{more}", shape, _MEND, field=field
        )
    if not rows:
        raise BadInput(f"{path.name} has no rows.", shape, "Choose a file with at least one.", field=field)
    return rows


_MEND = "Mend or remove them: a score over part of a file is not the file's score."


def _why(error: ValueError) -> str:
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"it is not JSON ({error})"


def _lines(path: Path, field: str) -> list[bytes]:
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise BadInput(
                f"{path.name} has {size / 2**20:,.0f} MiB.",
                f"A file to score on has at most {FILE_BYTES >> 20} MiB.",
                "Choose a sample of it.",
                field=field,
            )
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise BadInput(
            f"{path} can't be read: {error.strerror}.", "", "Check the path.", field=field
        ) from error
