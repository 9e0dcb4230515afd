"""Scoring the sets that ship, against one forward pass for every answer with nothing shared."""

import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.table import Row
from lab.models.starter import default_cache, fetch
from lab.score.likelihood import Passages, Tokens, batches, log_likelihoods
from lab.score.tasks import SHIPPED_CHOICES, place, read_questions


def measure() -> list[Row]:
    """Score the 40 questions both ways, twice each in turns, and compare seconds and figures."""
    folder = fetch(default_cache(), say=print)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = Tokens(AutoTokenizer.from_pretrained(folder), 2048)
    questions = read_questions(place(SHIPPED_CHOICES, None))
    items = [[tokens.choices(f"Question: {row.question}\nAnswer:", row.choices)] for row in questions]
    ours, bare = [], []
    for _ in range(2):
        start = time.process_time()
        shared = [
            value
            for batch in batches(items, "cpu")
            for value in log_likelihoods(model, [items[i][0] for i in batch])
        ]
        ours.append(time.process_time() - start)
        start = time.process_time()
        alone = [tuple(_alone(model, item, tail) for tail in item.continuations) for (item,) in items]
        bare.append(time.process_time() - start)
    gap = max(
        abs(a - b)
        for left, right in zip(shared, alone, strict=True)
        for a, b in zip(left, right, strict=True)
    )
    times = min(bare) / min(ours)
    return [
        Row(
            "40 questions, CPU seconds of a bare scorer over ours",
            f"{times:.1f} times fewer",
            "at least 2",
            times >= 2,
        ),
        Row(
            "40 questions, CPU seconds",
            f"{min(ours):.1f} s",
            note=f"{torch.get_num_threads()} threads, float32",
        ),
        Row("largest difference of a log-likelihood", f"{gap:.1e} nats", "below 1e-3", gap < 1e-3),
    ]


@torch.inference_mode()
def _alone(model: torch.nn.Module, item: Passages, tail: tuple[int, ...]) -> float:
    whole = torch.tensor([*item.context, *tail])
    told = model(whole[None, :-1]).logits[0].log_softmax(-1)[len(item.context) - 1 :]
    return told.gather(1, torch.tensor(tail)[:, None]).sum().item()
