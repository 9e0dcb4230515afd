"""The rows of a mixture's routers, from what prompts leave in the base model.

A row is the unit vector along the mean over the positive prompts minus that over the negative ones.
Knows how prompts are read; runs the base model only where hidden states are asked for.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import JobFailed
from lab.core.job import Job
from lab.merge.expertspec import ExpertsSpec, Prompts
from lab.merge.ingredients import EMBEDDINGS
from lab.models.runtime import load, load_tokenizer
from lab.models.source import Source
from lab.models.weights import open_weights

DEGENERATE = 5.0
"""A layer's rows with a larger condition number can hardly be told apart (mergekit-moe's bound)."""

_LEAST = 1e-8


def router_rows(spec: ExpertsSpec, layers: int, hidden: int, job: Job) -> Tensor:
    """Return every layer's router: the experts' rows, then the shared expert's.

    Args:
        spec: the mixture.
        layers: of the base.
        hidden: the width of the base.
        job: where the base is, and where to compute.

    Returns:
        Shape (layers, experts, hidden), float32.

    Raises:
        JobFailed: a prompt has no token, or the base doesn't fit into the memory.
    """
    every = (*spec.experts, *spec.shared_experts)
    if spec.gate_mode in ("random", "uniform_random"):
        return random_rows((layers, len(every), hidden), spec.gate_mode, spec.seed)
    read = _reader_of(spec, layers, job)
    rows = []
    for place, expert in enumerate(every):
        job.breathe()
        job.progress(0.0, f"Reading the prompts of expert {place + 1} of {len(every)}")
        row = read(expert.positive_prompts)
        rows.append(unit(row - read(expert.negative_prompts) if expert.negative_prompts else row))
    return torch.stack(rows, dim=1)


def random_rows(shape: Sequence[int], mode: str, seed: int) -> Tensor:
    """Return rows by chance: standard normal, or uniform in +-1/sqrt(hidden), as torch starts a layer."""
    generator = torch.Generator().manual_seed(seed)
    if mode == "random":
        return torch.randn(*shape, generator=generator)
    bound = sqrt(1.0 / shape[-1])
    return torch.rand(*shape, generator=generator) * 2 * bound - bound


def unit(rows: Tensor) -> Tensor:
    """Divide each row by its length; one of zeros stays."""
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(_LEAST)


def degenerate_layers(rows: Tensor) -> list[int]:
    """Return the layers whose rows can hardly be told apart: condition number above `DEGENERATE`."""
    return [layer for layer, row in enumerate(rows) if torch.linalg.cond(row.float()).item() > DEGENERATE]


def _reader_of(spec: ExpertsSpec, layers: int, job: Job) -> Callable[[Prompts], Tensor]:
    """Return a function from prompts to one vector a layer. Shape (layers, hidden)."""
    source = Source.find(spec.base_model, job)
    if spec.gate_mode == "cheap_embed":
        tokenizer = load_tokenizer(source)
        with open_weights(source.full) as weights:
            name = next(name for name in EMBEDDINGS if name in weights)
            table = weights.view(name)
        return lambda prompts: _embedded(prompts, tokenizer, table).expand(layers, -1)
    loaded = load(source, job.device)
    is_average = spec.gate_mode == "hidden_avg"
    return lambda prompts: torch.stack([_hidden(prompt, loaded, is_average) for prompt in prompts]).mean(0)


def _embedded(prompts: Prompts, tokenizer: Any, table: Tensor) -> Tensor:
    """Return the unit vector along the sum of the embeddings of all tokens. Shape (hidden,)."""
    tokens = torch.tensor([token for prompt in prompts for token in _tokens(prompt, tokenizer)])
    return unit(table[tokens].float().sum(0))


@torch.no_grad()
def _hidden(prompt: str, loaded: Any, is_average: bool) -> Tensor:
    """Return what goes into each layer at a prompt's last token, or its mean over the prompt.

    One prompt at a time, so no padding: mergekit-moe's mean counts padding too, ours does not.
    """
    tokens = torch.tensor([_tokens(prompt, loaded.tokenizer)[: loaded.context]], device=loaded.device)
    states = loaded.model(input_ids=tokens, output_hidden_states=True).hidden_states[:-1]
    stacked = torch.stack([state[0].float().cpu() for state in states])  # (layers, tokens, hidden)
    return stacked.mean(1) if is_average else stacked[:, -1]


def _tokens(prompt: str, tokenizer: Any) -> list[int]:
    """Return a prompt's tokens, after the mark of a beginning where the model has one."""
    tokens: list[int] = tokenizer((tokenizer.bos_token or "") + prompt, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise JobFailed("empty_prompt", f"The prompt {prompt[:40]!r} has no token. Write another one.")
    return tokens
