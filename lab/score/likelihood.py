"""How likely a model finds a continuation after a context: log p(continuation | context), in nats.

Runs a loaded model; knows nothing of tasks, files or jobs. The tokenisation and the windows are those
of lm-eval 0.4.13, so that the figures are comparable. A context is read once and its keys and values
serve all its continuations, which lm-eval does only for continuations of one token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
LOGITS_BYTES = 256 << 20
"""The most memory that one step's logits may take."""


@dataclass(frozen=True)
class Passages:
    """A context and the continuations to weigh after it, as token ids.

    Attributes:
        context: at least one token.
        continuations: one or more, each of at least one token.
        tokens_cut: how many tokens the context lost at its beginning to fit the window.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    tokens_cut: int = 0

    @property
    def tokens(self) -> int:
        """The tokens that reading them costs, padding included."""
        return len(self.context) + len(self.continuations) * max(map(len, self.continuations))


@dataclass(frozen=True)
class Tokens:
    """Turns text into passages that fit the context.

    Attributes:
        tokenizer: the model's own, from transformers.
        window: tokens that the model may see at once.
    """

    tokenizer: Any
    window: int

    def choices(self, context: str, choices: Sequence[str]) -> Passages:
        """Tokenise a question and its answers; a space stands before each answer.

        Context and answer are tokenised together and split after the context's tokens. A context that is too
        long loses its beginning.

        Raises:
            ValueError: an answer alone is longer than the window, or has no token of its own.
        """
        head = self._ids(context)
        tails = [self._ids(f"{context} {choice}")[len(head) :] for choice in choices]
        longest = max(map(len, tails))
        if longest > self.window or not all(tails):
            raise ValueError(f"an answer has {longest} tokens, and the window holds {self.window}")
        room = self.window + 1 - longest  # the last token of an answer is never read, only predicted
        return Passages(tuple(head[-room:]), tuple(map(tuple, tails)), max(0, len(head) - room))

    def windows(self, text: str) -> list[Passages]:
        """Cut a text into windows such that every token is predicted once.

        The first window is read after the prefix token (BOS, else EOS) alone. A later one is full: its
        last tokens are new, and those before are context.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        prefix = self.tokenizer.bos_token_id
        ids = [self.tokenizer.eos_token_id if prefix is None else prefix, *ids]
        passages = []
        for start in range(1, len(ids), self.window):
            end = min(start + self.window, len(ids))
            first = max(0, end - 1 - self.window)
            passages.append(Passages(tuple(ids[first:start]), (tuple(ids[start:end]),)))
        return passages

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text))


def batches(items: Sequence[Sequence[Passages]], device: str) -> Iterator[range]:
    """Group neighbouring items, in order, so that a batch has about as many tokens as suit the device.

    Args:
        items: each item's passages.
        device: "cpu" or "cuda".
    """
    most, start, tokens = BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"]), 0, 0
    for index, item in enumerate(items):
        cost = sum(passages.tokens for passages in item)
        if index > start and tokens + cost > most:
            yield range(start, index)
            start, tokens = index, 0
        tokens += cost
    if start < len(items):
        yield range(start, len(items))


@torch.inference_mode()
def log_likelihoods(model: Any, passages: Sequence[Passages]) -> list[tuple[float, ...]]:
    """Return log p of every continuation after its context, in nats; sums are in float32.

    Args:
        model: a causal language model of transformers, in eval mode.
        passages: what to read, all in one batch.
    """
    if not passages:
        return []
    device = model.device
    ids, mask = _left_padded([item.context for item in passages], device)
    seen = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp_min(0),
        use_cache=True,
        logits_to_keep=1,
    )
    rows = [row for row, item in enumerate(passages) for _ in item.continuations]
    tails = [tail for item in passages for tail in item.continuations]
    owner = torch.tensor(rows, device=device)
    targets, is_real = _right_padded(tails, device)
    first = seen.logits[:, -1].float().log_softmax(-1)[owner]  # (continuations, vocabulary)
    total = first.gather(1, targets[:, :1]).squeeze(1)
    if targets.shape[1] > 1:
        cache = seen.past_key_values
        cache.reorder_cache(owner)  # a context's keys and values once for each of its continuations
        total = total + _rest(model, cache, mask[owner], targets, is_real)
    values = iter(total.tolist())
    return [tuple(next(values) for _ in item.continuations) for item in passages]


def _rest(model: Any, cache: Any, mask: Tensor, targets: Tensor, is_real: Tensor) -> Tensor:
    """Read the continuations in steps that keep the logits small; return log p after their first tokens."""
    rows, length = targets.shape
    step = max(1, LOGITS_BYTES // (rows * model.config.get_text_config().vocab_size * 4))
    total = torch.zeros(rows, device=targets.device)
    lengths = mask.sum(1, keepdim=True)
    for start in range(0, length - 1, step):
        end = min(start + step, length - 1)
        mask = torch.cat([mask, torch.ones(rows, end - start, dtype=mask.dtype, device=mask.device)], 1)
        logits = model(
            input_ids=targets[:, start:end],
            attention_mask=mask,
            position_ids=lengths + torch.arange(start, end, device=mask.device),
            past_key_values=cache,
            use_cache=True,
        ).logits.float()  # (rows, end - start, vocabulary)
        # Not logsumexp: in float32 it is off by 8e-6 a token, always to the same side (torch 2.13, CPU).
        lost = F.cross_entropy(
            logits.flatten(0, 1), targets[:, start + 1 : end + 1].flatten(), reduction="none"
        )
        total -= torch.where(is_real[:, start + 1 : end + 1], lost.view(rows, -1), 0.0).sum(1)
    return total


def _left_padded(rows: Iterable[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = list(rows)
    length = max(map(len, rows))
    ids = [[0] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([list(row) + [0] * (length - len(row)) for row in rows], device=device)
    is_real = torch.tensor([[index < len(row) for index in range(length)] for row in rows], device=device)
    return ids, is_real
