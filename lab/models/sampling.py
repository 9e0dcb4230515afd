"""How the next token is chosen. Pure: scores and random numbers in, a token out.

The numbers are drawn one per token from a generator of one's own and turned into a token by the
inverse of the cumulative distribution. So two models that are asked with the same seed draw the same
numbers, step by step, whatever their vocabularies: where they agree, they say the same.
"""

from typing import Annotated

from pydantic import Field

from lab.core.spec import Spec
from lab.models.lazytorch import Generator, Tensor, torch


class Sampling(Spec):
    """How the next token is chosen; the same for every column.

    Attributes:
        seed: every column draws the same random numbers.
        temperature: 0 always takes the likeliest token.
        top_p: draw among the likeliest tokens that together have this probability.
        top_k: draw among so many likeliest tokens; 0 for all.
        repetition_penalty: divides the score of tokens that were there before; 1 for none.
        max_new_tokens: where an answer is cut off.
    """

    seed: Annotated[int, Field(ge=0, lt=1 << 31, description="The same seed draws the same numbers")] = 0
    temperature: Annotated[float, Field(ge=0, le=2, description="0 always takes the likeliest token")] = 0.2
    top_p: Annotated[float, Field(gt=0, le=1, description="Share of probability to draw from")] = 0.9
    top_k: Annotated[int, Field(ge=0, le=1000, description="Tokens to draw from; 0 for all")] = 0
    repetition_penalty: Annotated[float, Field(ge=1, le=2, description="Against repetition; 1 is none")] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, le=4096, description="Longest answer, in tokens")] = 256


def next_token(scores: Tensor, said: Tensor, sampling: Sampling, generator: Generator) -> int:
    """Choose a token.

    Args:
        scores: of every token, before softmax. Shape (vocabulary,).
        said: the tokens of prompt and answer so far. Shape (tokens,), int64, on the scores' device.
        sampling: how to choose.
        generator: on the CPU; one number is drawn from it unless the temperature is 0.

    Returns:
        The token's index.
    """
    scores = scores.float()
    if sampling.repetition_penalty != 1:
        scores = penalised(scores, said, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(scores.argmax())
    number = torch.rand((), generator=generator, dtype=torch.float64)
    weights = probabilities(scores, sampling).double().cumsum(0)
    # Below the total, so that rounding never points past the last token that may be drawn.
    aim = (number.to(weights.device) * weights[-1]).clamp_max(weights[-1].nextafter(weights.new_zeros(())))
    return int(torch.searchsorted(weights, aim, right=True))


def penalised(scores: Tensor, said: Tensor, penalty: float) -> Tensor:
    """Make tokens that were said before less likely: s / p where s > 0, else s * p (CTRL, arXiv:1909.05858).

    Args:
        scores: shape (vocabulary,), float32.
        said: token indices, shape (tokens,).
        penalty: at least 1.
    """
    before = scores[said]
    return scores.scatter(0, said, torch.where(before > 0, before / penalty, before * penalty))


def probabilities(scores: Tensor, sampling: Sampling) -> Tensor:
    """Return the distribution to draw from: temperature, then top-k, then top-p, as transformers does it.

    Args:
        scores: shape (vocabulary,), float32.
        sampling: with a temperature above 0.

    Returns:
        Probabilities that sum to 1; 0 for tokens that may not be drawn. Shape (vocabulary,).
    """
    scores = scores / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        least = scores.topk(sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < least, float("-inf"))
    chances = scores.softmax(0)
    if sampling.top_p == 1:
        return chances
    ordered, order = chances.sort(descending=True)
    before = ordered.cumsum(0) - ordered  # what the likelier tokens have together
    kept = torch.zeros_like(chances).scatter(0, order, ordered.masked_fill(before >= sampling.top_p, 0))
    return kept / kept.sum()
