"""From a dataset's file to the batches that the trainer reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import BadInput
from lab.data.encoding import IGNORED, Encoded, encode
from lab.data.formats import Conversation
from lab.data.reading import read_dataset
from lab.data.split import split


@dataclass(frozen=True)
class Rows:
    """A dataset in tokens, uncut: rows to learn from and rows to evaluate on."""

    train: list[Encoded]
    held_out: list[Encoded]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [row.length for row in [*self.train, *self.held_out]]

    def cut(self, max_length: int) -> "Rows":
        """Cut every row and leave out those that have no answer left to learn from."""
        return Rows(_cut(self.train, max_length), _cut(self.held_out, max_length))


def load_rows(path: Path, tokenizer: Any, held_out: int | None, breathe: Callable[[], None]) -> Rows:
    """Read a dataset and encode it.

    Args:
        path: the dataset's file.
        tokenizer: of the model that will read it.
        held_out: rows to evaluate on; None takes the usual share.
        breathe: called between rows.

    Raises:
        BadInput: there is no good row, or the chat template can't be trained with.
    """
    conversations = read_dataset(path).rows
    if not conversations:
        raise BadInput("The dataset has no good row.", "", "Choose another dataset.", field="dataset")
    parts = split(conversations, held_out)

    def encoded(rows: Sequence[Conversation]) -> list[Encoded]:
        done = []
        for row in rows:
            breathe()
            done.append(encode(row, tokenizer))
        return done

    return Rows(encoded(parts.train), encoded(parts.held_out))


def _cut(rows: Sequence[Encoded], max_length: int) -> list[Encoded]:
    shorter = [Encoded(row.ids[:max_length], row.labels[:max_length], row.length) for row in rows]
    return [row for row in shorter if row.trained]


def features_of(rows: Sequence[Encoded]) -> list[dict[str, list[int]]]:
    """Return rows as the trainer takes them."""
    return [{"input_ids": row.ids, "labels": row.labels} for row in rows]


@dataclass(frozen=True)
class Padding:
    """Makes a batch of rows of different lengths, padded on the right to the longest.

    Labels are padded with IGNORED and the mask with 0, whatever the padding token is: for many models
    it is the end mark, whose true occurrences have to stay trained.

    Args:
        pad_id: the token that fills up.
        trims: leave out the logits in front of the first answer. They are never looked at, and with a
            large vocabulary they are a good part of a step.
    """

    pad_id: int
    trims: bool = False

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Return a batch.

        Returns:
            input_ids and attention_mask, each (rows, longest), and labels, the same or, where it trims,
            (rows, columns) with logits_to_keep (columns), the positions that the labels stand at.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[index, :length] = torch.tensor(row["input_ids"])
            labels[index, :length] = torch.tensor(row["labels"])
            mask[index, :length] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return _trimmed(batch) if self.trims else batch


def _trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the columns before the one that predicts the first trained token."""
    trained = (batch["labels"] != IGNORED).any(0).nonzero()
    first = max(int(trained[0]) - 1, 0) if len(trained) else 0
    # As positions, not as a count: a count makes a strided view, whose matrix product is slow on CPUs.
    kept = torch.arange(first, batch["labels"].shape[1])
    return {**batch, "labels": batch["labels"][:, first:].contiguous(), "logits_to_keep": kept}
