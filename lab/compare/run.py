"""Has up to four models answer side by side, every column at its own pace.

A column that fails, fails alone. Only for processes that run jobs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput, Cancelled, JobFailed, LabError
from lab.core.job import Device, Job, Outcome
from lab.merge.live import open_live
from lab.merge.siblings import LiveRecipe
from lab.models.generation import Piece, render, stream
from lab.models.runtime import Loaded, ModelCache, is_out_of_memory
from lab.models.source import Source

LOOK_SECONDS = 0.05
"""How often the job's own thread asks whether it was cancelled or stopped."""

FIGURES_SECONDS = 0.5
"""How often a column that writes tells its speed."""


@dataclass
class Baton:
    """What the job's own thread tells the columns' threads.

    Attributes:
        is_over: the answers are not wanted any more.
        is_stopped: end every answer with what there is.
        threads: CPU threads for each column.
    """

    is_over: bool = False
    is_stopped: bool = False
    threads: int = 1

    def check(self) -> None:
        """Raise Cancelled when the answers are not wanted any more."""
        if self.is_over:
            raise Cancelled


@dataclass
class Column:
    """One model's answer in the making.

    Attributes:
        place: its index among the models.
        model: the model's name.
        emit: tells the job's events.
        text: what was said so far.
        merging: of a live merge, how long it took.
        figures: what is known of the answer: tokens, speed, stop reason, prompt_tokens.
        failure: why there is no answer; None while there is.
    """

    place: int
    model: str
    emit: Callable[..., None]
    text: str = ""
    merging: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    failure: LabError | None = None
    _told: float = 0.0

    def enter(self, phase: str) -> None:
        """Tell the phase, with the figures known."""
        self._told = time.monotonic()
        self.emit("column", column=self.place, phase=phase, **self.merging, **self.figures)

    def add(self, piece: Piece) -> None:
        """Take in a piece of the answer, and tell it."""
        is_first = not self.figures
        self.text += piece.text
        self.figures = {
            "prompt_tokens": piece.prompt_tokens,
            "tokens": piece.tokens,
            "first_token_seconds": round(piece.first_token_seconds, 4),
            "tokens_per_second": round(piece.tokens_per_second, 2),
        }
        if piece.text:
            self.emit("delta", column=self.place, text=piece.text)
        if piece.stop_reason is not None:
            self.figures["stop_reason"] = piece.stop_reason
            self.enter("done")
        elif is_first or time.monotonic() - self._told > FIGURES_SECONDS:
            self.enter("writing")

    def fail(self, error: LabError) -> None:
        """End without (the rest of) an answer."""
        self.failure = error
        self.figures |= {"stop_reason": "failed", "failure": str(error)}
        self.emit("note", text=f"{self.model}: {error}", level="warning")
        self.enter("done")

    def row(self) -> dict[str, Any]:
        """Return the column as a transcript keeps it."""
        blank = dict.fromkeys(("tokens", "first_token_seconds", "tokens_per_second", "prompt_tokens"))
        return {"model": self.model, "text": self.text, **blank, **self.merging, **self.figures}


def run(spec: CompareSpec, job: Job, cache: ModelCache | None = None) -> Outcome:
    """Stream one answer of every model.

    Args:
        spec: what is asked.
        job: where it runs; told `column` and `delta` events.
        cache: models that stay in memory between jobs.

    Returns:
        An outcome whose summary has `columns`: one row a model with its text and figures.

    Raises:
        BadInput: no model could answer, for a reason that the asker can mend.
        JobFailed: no model could answer.
    """
    columns = [Column(place, model, job.emit) for place, model in enumerate(spec.models)]
    for column in columns:
        column.enter("waiting")
    sources = _find(columns, spec, job)
    answers = _Answers(spec, job.device, cache or ModelCache(), torch.get_num_threads())
    at_once = columns_at_once([source.bytes_in(job.device.dtype) for _, source in sources], job.device)
    baton = Baton(threads=_threads_each(at_once))
    with ThreadPoolExecutor(at_once, thread_name_prefix="column") as pool:
        futures = [pool.submit(answers.write, column, source, baton) for column, source in sources]
        try:
            _watch(futures, job, baton, at_once)
        finally:
            baton.is_over = True
    for future in futures:
        future.result()  # a fault of ours ends the whole job
    if all(column.failure for column in columns):
        raise columns[0].failure or JobFailed("no_answer", "No model answered.")
    return Outcome(summary={"columns": [column.row() for column in columns]}, stopped_early=baton.is_stopped)


def columns_at_once(sizes: Sequence[int], device: Device) -> int:
    """Return how many columns write at the same time.

    All of them, where their models fit into memory together. Writing one token is bound by the
    memory's speed and by single-threaded work between the products, so a second thread adds little
    to one column, and next to other work on the same cores the two wait for each other: measured
    on two busy cores, one column with two threads wrote 1 to 4 tokens a second, with one thread 12
    to 18; two or four columns with one thread each wrote as many together as one alone or more.
    So side by side costs nothing, and nobody waits behind a slow model. Models that don't fit
    together take turns, so that only one is in memory.

    Args:
        sizes: bytes of every model.
        device: where they compute.
    """
    return max(1, len(sizes)) if sum(sizes) <= device.free_bytes * 0.8 else 1


Asked = Source | LiveRecipe
"""Who answers in a column."""


@dataclass(frozen=True)
class _Answers:
    """Writes columns, each in a thread of its own; a live merge may use all threads of the job."""

    spec: CompareSpec
    device: Device
    cache: ModelCache
    threads: int

    def write(self, column: Column, source: Asked, baton: Baton) -> None:
        """Load a model and stream its answer into a column; whatever the lab refuses, ends the column."""
        try:
            self._write(column, source, baton)
        except Cancelled:
            return
        except LabError as error:
            column.fail(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = f"The memory of {self.device.words} ran out. Ask fewer or smaller models at once."
            column.fail(JobFailed("out_of_memory", text))

    def _write(self, column: Column, source: Asked, baton: Baton) -> None:
        baton.check()
        torch.set_num_threads(baton.threads)
        with self._loaded(column, source, baton) as loaded:
            self._answer(column, loaded, baton)

    @contextmanager
    def _loaded(self, column: Column, source: Asked, baton: Baton) -> Iterator[Loaded]:
        """Load a model, or merge a recipe into its resident model and keep it so until the answer ends."""
        if isinstance(source, Source):
            yield self.cache.get(source, self.device)
            return
        column.enter("merging")
        live = open_live(source, self.cache, self.device)
        with live.merged(source, threads=self.threads, breathe=baton.check) as seconds:
            column.merging = {"merge_seconds": round(seconds, 3), "live_bytes": live.size_bytes}
            yield live.loaded

    def _answer(self, column: Column, loaded: Loaded, baton: Baton) -> None:
        prompt = render(loaded, self.spec.messages(column.place))
        column.enter("reading")

        def breathe() -> None:
            baton.check()
            if torch.get_num_threads() != baton.threads:
                torch.set_num_threads(baton.threads)

        for piece in stream(
            loaded, prompt, self.spec.sampling, is_stopped=lambda: baton.is_stopped, breathe=breathe
        ):
            column.add(piece)


def _find(columns: Sequence[Column], spec: CompareSpec, job: Job) -> list[tuple[Column, Asked]]:
    """Find every column's model or recipe; a column whose model is gone fails here."""
    found: list[tuple[Column, Asked]] = []
    for column in columns:
        try:
            recipe = spec.recipe(column.model)
            asked = LiveRecipe.find(recipe, job) if recipe else Source.find(column.model, job)
            found.append((column, asked))
        except BadInput as error:
            column.fail(error)
    return found


def _watch(futures: Sequence[Future[None]], job: Job, baton: Baton, at_once: int) -> None:
    """Pass on what is asked of the job until every column is done."""
    pending = set(futures)
    while pending:
        job.breathe()
        baton.is_stopped = baton.is_stopped or job.stop_asked()
        baton.threads = _threads_each(at_once)  # the job's share may have changed
        done, pending = wait(pending, LOOK_SECONDS)
        if done:
            job.progress((len(futures) - len(pending)) / len(futures), "Answering")


def _threads_each(at_once: int) -> int:
    return max(1, torch.get_num_threads() // at_once)
