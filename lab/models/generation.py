"""Writes an answer token by token and hands its text out as it comes. Only for processes that run jobs.

Knows one loaded model; knows no job, no event and no queue. It never touches a global seed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lab.core.errors import BadInput
from lab.models.runtime import Loaded
from lab.models.sampling import Sampling, next_token

PREFILL_TOKENS = 512
"""How much of a prompt is read in one go; between them a job can be cancelled."""

StopReason = Literal["end", "length", "stopped"]

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() }}: {{ message['content'] }}\n\n"
    "{% endfor %}"
    "Assistant:"
)
"""How a conversation is written for a model that doesn't say it itself."""


@dataclass(frozen=True)
class Piece:
    """Some more of an answer, and the figures so far.

    Attributes:
        text: what to append; may be empty while a character is incomplete.
        prompt_tokens: length of the prompt.
        tokens: written so far, the end mark included.
        first_token_seconds: from the start of reading to the first token.
        tokens_per_second: of writing, without the reading.
        stop_reason: "end" (the model ended), "length" (cut off), "stopped" (on request); None before the end.
    """

    text: str
    prompt_tokens: int
    tokens: int
    first_token_seconds: float
    tokens_per_second: float
    stop_reason: StopReason | None = None


def render(loaded: Loaded, messages: Sequence[dict[str, str]]) -> list[int]:
    """Write a conversation as tokens, ready for the model's answer.

    Args:
        loaded: its tokenizer's chat template is used; a plain one where it has none.
        messages: with role (system, user, assistant) and content, in order.

    Raises:
        BadInput: the template refuses such a conversation, or it doesn't fit into the context.
    """
    from jinja2 import TemplateError

    template = None if loaded.tokenizer.chat_template else PLAIN_TEMPLATE
    try:
        written = loaded.tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=True, return_dict=True
        )
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"The chat template of {loaded.name} refuses this conversation: {str(error)[:200]}.",
            "Some models know no system message, or want user and assistant in turn.",
            "Clear the system message, or start a new conversation.",
        ) from None
    ids = [int(token) for token in written["input_ids"]]
    if len(ids) >= loaded.context:
        raise BadInput(
            f"The conversation has {len(ids):,} tokens for {loaded.name}.",
            f"Its context holds {loaded.context:,}, the answer included.",
            "Shorten the prompt, or start a new conversation.",
            field="prompt",
        )
    return ids


@torch.inference_mode()
def stream(
    loaded: Loaded,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    breathe: Callable[[], None] = lambda: None,
) -> Iterator[Piece]:
    """Yield an answer piece by piece; the last piece has a stop reason.

    Args:
        loaded: the model.
        prompt: tokens, at least one and fewer than the context.
        sampling: how to choose the next token.
        is_stopped: asked before every token; True ends the answer with what there is.
        breathe: called before every token; what it raises passes.
    """
    from transformers import DynamicCache

    generator = Generator().manual_seed(sampling.seed)
    most = min(sampling.max_new_tokens, loaded.context - len(prompt))
    said = torch.tensor(list(prompt), device=loaded.device)
    cache = DynamicCache(config=loaded.model.config)
    text = TextStream(loaded.tokenizer)
    begun = time.perf_counter()
    scores = _read(loaded.model, said, cache, breathe)
    piece = Piece("", len(prompt), 0, 0.0, 0.0)
    first = begun
    while True:
        breathe()
        if is_stopped():
            yield replace(piece, text=text.rest(), stop_reason="stopped")
            return
        token = next_token(scores, said, sampling, generator)
        now = time.perf_counter()
        first = now if piece.tokens == 0 else first
        is_end = token in loaded.stop_ids
        piece = _grown(piece, "" if is_end else text.add(token), begun, first, now)
        if is_end or piece.tokens == most:
            yield replace(piece, text=piece.text + text.rest(), stop_reason="end" if is_end else "length")
            return
        yield piece
        said = torch.cat([said, said.new_tensor([token])])
        scores = _forward(loaded.model, said[-1:], cache)


class TextStream:
    """Turns tokens into text as they come, never splitting a character.

    A token alone can't be decoded: it may be half a character, or lose the space before it. So a
    short window of tokens is decoded with and without the new one, and the difference is the text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._begin = 0  # of the window
        self._told = 0  # tokens whose text was handed out

    def add(self, token: int) -> str:
        """Return the text that a token completes; "" while a character is incomplete."""
        self._tokens.append(token)
        new = self._new_text()
        if not new or new.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._begin, self._told = self._told, len(self._tokens)
        return new

    def rest(self) -> str:
        """Return what was held back: an answer may end within a character."""
        new = self._new_text()
        self._begin = self._told = len(self._tokens)
        return new

    def _new_text(self) -> str:
        told = self._decode(self._tokens[self._begin : self._told])
        return self._decode(self._tokens[self._begin :])[len(told) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def _read(model: Any, prompt: Tensor, cache: Any, breathe: Callable[[], None]) -> Tensor:
    """Read a prompt in chunks; return the scores after its last token. Shape (vocabulary,)."""
    scores = prompt.new_zeros(0)
    for chunk in prompt.split(PREFILL_TOKENS):
        breathe()
        scores = _forward(model, chunk, cache)
    return scores


def _forward(model: Any, tokens: Tensor, cache: Any) -> Tensor:
    """Return the scores after the last of the tokens. Shape (vocabulary,)."""
    output = model(tokens.unsqueeze(0), past_key_values=cache, use_cache=True, logits_to_keep=1)
    scores: Tensor = output.logits[0, -1]
    return scores


def _grown(piece: Piece, text: str, begun: float, first: float, now: float) -> Piece:
    """Return the piece after one more token."""
    tokens = piece.tokens + 1
    speed = (tokens - 1) / (now - first) if tokens > 1 else 1 / max(now - begun, 1e-9)
    return replace(
        piece, text=text, tokens=tokens, first_token_seconds=first - begun, tokens_per_second=speed
    )
