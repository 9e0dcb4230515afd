"""What can be said of a score job before it is queued: the files' rows, the models' sizes. Loads no model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need
from lab.models.source import Source
from lab.score.spec import ScoreSpec
from lab.score.tasks import place, read_documents, read_questions

OVERHEAD_BYTES = 1 << 30
"""Libraries, logits and keys and values beside the weights."""


@dataclass(frozen=True)
class ScoreEstimate:
    """What a score job will read.

    Attributes:
        questions, texts: how many items of each kind, for every model.
        memory_bytes: what the largest model and the work beside it need.
    """

    questions: int
    texts: int
    memory_bytes: int

    @property
    def need(self) -> Need:
        """What the job needs of a device."""
        return Need(self.memory_bytes, field="models")


def check(spec: ScoreSpec, shelf: Shelf) -> ScoreEstimate:
    """Check files and models, and say what will be read.

    Raises:
        BadInput: a file has bad lines, a folder is no model, or a model doesn't fit the memory.
    """
    questions = texts = 0
    if spec.multiple_choice is not None:
        with _naming("multiple_choice"):
            questions = len(read_questions(place(spec.multiple_choice, shelf), spec.limit))
    if spec.text is not None:
        with _naming("text"):
            texts = len(read_documents(place(spec.text, shelf), spec.limit))
    with _naming("models"):
        needed = max(_memory_of(ref, spec, shelf) for ref in spec.models)
    return ScoreEstimate(questions, texts, needed)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Name the field at fault, where the refusal itself doesn't."""
    try:
        yield
    except BadInput as error:
        raise error.at(error.field or field) from None


def _memory_of(ref: str, spec: ScoreSpec, shelf: Shelf) -> int:
    source = Source.find(ref, shelf)
    source.check()
    needed = source.bytes_in(spec.dtype) + OVERHEAD_BYTES
    if needed > shelf.memory_bytes():
        halve = "Score in bfloat16, which halves it, or choose" if spec.dtype == "float32" else "Choose"
        raise BadInput(
            f"{ref} needs about {needed / 2**30:.1f} GiB to be scored in {spec.dtype}.",
            f"This machine has {shelf.memory_bytes() / 2**30:.1f} GiB.",
            f"{halve} a smaller model.",
        )
    return needed
