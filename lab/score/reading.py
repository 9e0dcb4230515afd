"""Has a model read everything it is scored on, batch by batch, and hands over what it found.

Runs a loaded model; knows nothing of jobs, files or metrics.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.errors import JobFailed
from lab.score.likelihood import Passages, Tokens, batches, log_likelihoods
from lab.score.metric import ChoiceLikelihoods, Reads, TextLikelihood
from lab.score.tasks import Document, Question

Item = Question | Document


@dataclass(frozen=True)
class Task:
    """One thing to score on.

    Attributes:
        reads: what its items are.
        data: the name of its file, as the spec has it.
        items: its rows, in order.
    """

    reads: Reads
    data: str
    items: Sequence[Item]


Finding = ChoiceLikelihoods | TextLikelihood


@dataclass(frozen=True)
class Reader:
    """A model that reads tasks.

    Attributes:
        model, tokenizer: loaded by transformers.
        window: tokens to show it at once; not above its context.
    """

    model: Any
    tokenizer: Any
    window: int

    def prepare(self, task: Task) -> "Preparation":
        """Tokenise a task.

        Raises:
            JobFailed: an item can't be fitted into the window.
        """
        tokens = Tokens(self.tokenizer, self.window)
        passages = [_passages(tokens, number, item) for number, item in enumerate(task.items, 1)]
        return Preparation(self.model, task, passages)


@dataclass(frozen=True)
class Preparation:
    """A task in one model's tokens, ready to be read."""

    model: Any
    task: Task
    passages: Sequence[Sequence[Passages]]

    @property
    def tokens(self) -> int:
        """What reading it costs."""
        return sum(part.tokens for item in self.passages for part in item)

    @property
    def cut(self) -> int:
        """How many items lost their beginning to fit the window."""
        return sum(any(part.tokens_cut for part in item) for item in self.passages)

    def read(self) -> Iterator[tuple[list[Finding], int]]:
        """Read batch after batch, in order.

        Yields:
            The findings of a batch, one an item, and the tokens that it cost.

        Raises:
            JobFailed: the model answers with NaN or infinity.
        """
        for batch in batches(self.passages, self.model.device.type):
            parts = [part for index in batch for part in self.passages[index]]
            values = iter(log_likelihoods(self.model, parts))
            found = []
            for index in batch:
                own = [next(values) for _ in self.passages[index]]
                found.append(_finding(self.task.items[index], own))
            yield found, sum(part.tokens for part in parts)


def _passages(tokens: Tokens, number: int, item: Item) -> list[Passages]:
    if isinstance(item, Document):
        return tokens.windows(item.text)
    try:
        return [tokens.choices(f"Question: {item.question}\nAnswer:", item.choices)]
    except ValueError as error:
        raise JobFailed(
            "too_long",
            f"Question {number}: {error}. Shorten the answer, or raise context_tokens.",
        ) from None


def _finding(item: Item, values: Sequence[tuple[float, ...]]) -> Finding:
    if not all(math.isfinite(value) for part in values for value in part):
        raise JobFailed(
            "not_finite",
            "The model answers with NaN or infinity instead of likelihoods, so its weights are damaged. "
            "Make or import it again.",
        )
    if isinstance(item, Question):
        return ChoiceLikelihoods(values[0], item.choices, item.answer)
    return TextLikelihood(math.fsum(part[0] for part in values), len(item.text.encode()))
