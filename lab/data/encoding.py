"""From a conversation to what a model sees: token ids, and which of them it learns from.

The loss falls on the answers only, each with the mark that ends its turn: a model that never sees
that mark as a target never learns to stop. Preview and training both use `encode`, so that the
colours on the page are the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.data.formats import Conversation

IGNORED = -100
"""The label of a token that the loss skips, in torch's words."""


@dataclass(frozen=True)
class Encoded:
    """One conversation in tokens.

    Attributes:
        ids: token ids, at most `max_length`.
        labels: the same ids where the model learns, IGNORED elsewhere.
        length: tokens before the row was cut.
    """

    ids: list[int]
    labels: list[int]
    length: int

    @property
    def trained(self) -> int:
        """How many tokens the model learns from."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def is_cut(self) -> bool:
        """Whether the row was longer than allowed."""
        return self.length > len(self.ids)


def load_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer from its folder and check that it can serve chat training.

    Raises:
        BadInput: there is no usable tokenizer, it has no chat template, or it can't tell where tokens begin.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        seen = f"The tokenizer of {folder.name} can't be loaded: {str(error).splitlines()[0][:200]}"
        raise BadInput(
            seen, "A model folder has a tokenizer.json.", "Add the model again.", field="model"
        ) from None
    if not tokenizer.chat_template:
        seen = f"{folder.name} has no chat template."
        expected = "Fine-tuning writes conversations the way the model was taught to read them."
        raise BadInput(seen, expected, "Choose an instruct or chat model.", field="model")
    if not tokenizer.is_fast:
        seen = f"The tokenizer of {folder.name} can't say where in the text its tokens begin."
        raise BadInput(seen, "Fine-tuning needs a tokenizer.json.", "Convert the tokenizer.", field="model")
    return tokenizer


def encode(conversation: Conversation, tokenizer: Any, max_length: int | None = None) -> Encoded:
    """Write a conversation with the model's chat template and mark the tokens of the answers.

    The template is rendered up to each answer (with the words that start an answer) and through
    it; the difference is the answer. That works with every template in which what was said stays as
    it was, without marks in the template.

    Args:
        conversation: turns, the last an answer.
        tokenizer: a fast tokenizer with a chat template.
        max_length: cut after so many tokens; None cuts nothing.

    Returns:
        Ids and labels. An end mark is added after the last answer where the template has none.

    Raises:
        BadInput: the template changes earlier turns, so that answers can't be told from questions.
    """
    text, spans = _spans(conversation, tokenizer)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(tokens["input_ids"])
    labels = _labels(ids, tokens["offset_mapping"], spans)
    end = tokenizer.eos_token_id
    if end is not None and _last_trained(labels) not in tokenizer.all_special_ids:
        ids, labels = [*ids, end], [*labels, end]
    return Encoded(ids[:max_length], labels[:max_length], len(ids))


def _spans(conversation: Conversation, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return the whole text and where in it each answer begins and ends, in characters."""
    whole = _render(conversation, tokenizer)
    spans = []
    for index, turn in enumerate(conversation):
        if turn["role"] != "assistant":
            continue
        before = _render(conversation[:index], tokenizer, starts_answer=True)
        through = _render(conversation[: index + 1], tokenizer)
        if not through.startswith(before) or not whole.startswith(through):
            raise BadInput(
                "This model's chat template rewrites earlier turns when later ones follow.",
                "To tell answers from questions, what was said has to stay as it was.",
                "Choose a dataset with one question and one answer a row, or another model.",
                field="dataset",
            )
        answer = through[len(before) :].rstrip()  # what a template writes after its end mark teaches nothing
        spans.append((len(before), len(before) + len(answer)))
    return whole, spans


def _render(turns: Conversation, tokenizer: Any, *, starts_answer: bool = False) -> str:
    from jinja2 import TemplateError

    # What a stranger's template may raise: jinja's own errors, and those of the expressions in it.
    faults = (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    )
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=starts_answer)
    except faults as error:
        seen = f"This model's chat template refuses a row: {str(error)[:200]}"
        raise BadInput(seen, "", "Choose another dataset or model.", field="dataset") from None


def _labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """Keep the id of each token that reaches into an answer; spans and offsets are both in order."""
    labels, span = [], 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        inside = span < len(spans) and start < spans[span][1] and end > spans[span][0]
        labels.append(token if inside else IGNORED)
    return labels


def _last_trained(labels: Sequence[int]) -> int:
    return next((label for label in reversed(labels) if label != IGNORED), IGNORED)
