"""Show a dataset as the tokens a model will see, with the trained ones marked. Runs in the chat lane."""

import math
from dataclasses import dataclass
from typing import Any

from lab.core.errors import BadInput
from lab.core.job import Job, Outcome
from lab.data.encoding import IGNORED, Encoded, encode, load_tokenizer
from lab.data.importing import read_conversations
from lab.data.spec import PreviewSpec

MOST_ROWS = 2000
"""So many rows are counted; the figures of a larger dataset are those of its first rows."""

MOST_TOKENS = 600
"""So many tokens of a row are shown."""


@dataclass(frozen=True)
class Shown:
    """One row as the page draws it: pieces of text, each trained or not."""

    pieces: list[tuple[str, bool]]
    tokens: int
    cut: bool


def run(spec: PreviewSpec, job: Job) -> Outcome:
    """Encode the first rows of a dataset.

    Returns:
        An outcome whose summary has `rows` (each with `pieces` [[text, is_trained], ...], `tokens`,
        `cut`), and the figures `counted`, `trained_share`, `cut_share`, `longest`, `p50`, `p99`.

    Raises:
        BadInput: there is no row, or the model can't read conversations.
    """
    job.progress(0.0, "Loading the tokenizer")
    tokenizer = load_tokenizer(job.model(spec.model))
    shown: list[Shown] = []
    counted: list[Encoded] = []
    for conversation in read_conversations(job.dataset(spec.dataset)):
        job.breathe()
        row = encode(conversation, tokenizer, spec.max_length)
        counted.append(row)
        if len(shown) < spec.rows:
            shown.append(_show(row, tokenizer))
        if len(counted) == MOST_ROWS:
            break
    if not counted:
        raise BadInput("The dataset has no good row.", "", "Choose another dataset.", field="dataset")
    rows = [
        {"pieces": [list(piece) for piece in row.pieces], "tokens": row.tokens, "cut": row.cut}
        for row in shown
    ]
    return Outcome(summary={"rows": rows, **_figures(counted)})


def _show(row: Encoded, tokenizer: Any) -> Shown:
    """Return a row as text, a piece for each token; the parts of one character share a piece."""
    pieces: list[tuple[str, bool]] = []
    waiting: list[int] = []
    for token, label in list(zip(row.ids, row.labels, strict=True))[:MOST_TOKENS]:
        waiting.append(token)
        text = tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(waiting) < 4:  # bytes of a character that is not complete yet
            continue
        pieces.append((text, label != IGNORED))
        waiting = []
    return Shown(pieces, row.length, row.is_cut)


def _figures(rows: list[Encoded]) -> dict[str, float | int]:
    lengths = sorted(row.length for row in rows)
    seen = sum(len(row.ids) for row in rows)
    return {
        "counted": len(rows),
        "trained_share": sum(row.trained for row in rows) / max(seen, 1),
        "cut_share": sum(row.is_cut for row in rows) / len(rows),
        "longest": lengths[-1],
        "p50": _percentile(lengths, 0.50),
        "p99": _percentile(lengths, 0.99),
    }


def _percentile(ordered: list[int], share: float) -> int:
    """Return the smallest value that at least this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
