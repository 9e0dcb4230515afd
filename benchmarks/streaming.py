"""Streamed tokens per second, through a whole compare job, against a bare `generate` of transformers."""

import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.utils import logging

from benchmarks.table import Row
from lab.compare.run import run
from lab.compare.spec import CompareSpec
from lab.core.job import Device
from lab.local import LocalJob, Voice
from lab.models.catalog import PathShelf
from lab.models.runtime import Loaded, ModelCache
from lab.models.source import Source
from lab.models.starter import default_cache, fetch

PROMPT = "Tell a long story about a lighthouse keeper and her cat."
LEAST_SHARE = 0.9

Result = TypeVar("Result")


@dataclass
class Setting:
    """What is measured: a model, how many tokens it writes, and how often.

    Attributes:
        folder: the model.
        tokens: length of an answer.
        rounds: times each way, in turns; the fastest counts.
        columns: numbers of columns to write side by side, for information.
    """

    folder: Path
    tokens: int = 96
    rounds: int = 4
    columns: tuple[int, ...] = (2, 4)
    device: Device = field(default_factory=lambda: _cpu("bfloat16"))


def measure(setting: Setting | None = None) -> list[Row]:
    """Stream and generate the same answer in turns, and compare the fastest of each."""
    logging.set_verbosity_error()
    setting = setting or Setting(fetch(default_cache(), say=print))
    cache = ModelCache()
    loaded = _apart(lambda: cache.get(Source("bench", setting.folder), setting.device))
    bare, ours = [], []
    for _ in range(setting.rounds):
        bare.append(_timed(lambda: _generate(loaded, setting.tokens)))
        ours.append(_timed(lambda: _compare(setting, cache, 1)))
    share = max(ours) / max(bare)
    rows = [
        Row("bare generate, one answer", f"{max(bare):.1f} tokens/s", note=_words(setting)),
        Row("a compare job with one column", f"{max(ours):.1f} tokens/s"),
        Row("streamed / bare", f"{share:.3f}", f"at least {LEAST_SHARE}", share >= LEAST_SHARE),
    ]
    for count in setting.columns:
        total = max(_timed(lambda n=count: _compare(setting, cache, n)) for _ in range(2))  # type: ignore[misc]
        rows.append(Row(f"{count} columns side by side, together", f"{total:.1f} tokens/s"))
    return rows


def _timed(write: Callable[[], int]) -> float:
    """Return tokens per second of writing, reading included."""
    begun = time.perf_counter()
    tokens = _apart(write)
    return tokens / (time.perf_counter() - begun)


def _apart(work: Callable[[], Result]) -> Result:
    """Do something in a thread that ends with it, as the warm engine does every job.

    OpenMP gives each thread that computes a team of its own, and stops waiting actively once all
    teams together have more threads than there are cores: a team left over from the bare loop
    would slow down ours.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@torch.inference_mode()
def _generate(loaded: Loaded, tokens: int) -> int:
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = loaded.model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return int(written.shape[1] - prompt["input_ids"].shape[1])


def _compare(setting: Setting, cache: ModelCache, columns: int) -> int:
    """Run a compare job whose columns are one model under several names; return the tokens of all."""
    names = [f"column-{place}" for place in range(columns)]
    spec = CompareSpec(models=tuple(names), prompt=PROMPT, temperature=0, max_new_tokens=setting.tokens)
    with tempfile.TemporaryDirectory() as work:
        shelf = _OneModel(setting.folder, Path(work))
        job = LocalJob(Path(work), setting.device, shelf, Voice(io.StringIO(), is_quiet=True))
        rows: list[dict[str, Any]] = run(spec, job, cache).summary["columns"]
    return sum(row["tokens"] for row in rows)


class _OneModel(PathShelf):
    """A shelf where every name is the one model that is measured."""

    def __init__(self, folder: Path, work: Path) -> None:
        super().__init__(None, work)
        self._folder = folder

    def model(self, ref: str) -> Path:  # noqa: ARG002  every name will do
        """Return the one folder."""
        return self._folder


def _cpu(dtype: str) -> Device:
    return Device("cpu", dtype, f"CPU, {torch.get_num_threads()} threads, {dtype}", 8 << 30)


def _words(setting: Setting) -> str:
    return f"{setting.device.words}, {setting.tokens} tokens, fastest of {setting.rounds}"
