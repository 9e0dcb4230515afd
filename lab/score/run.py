"""The score job: model after model reads the same questions and texts; figures, intervals, verdicts.

Figures are told while they grow, as metric events whose values are named "<model>/<metric>". What a
model has read is kept in the job's folder, so that a job that starts again goes on with the next model.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lab.core.job import Job, Outcome
from lab.models.runtime import load
from lab.models.source import Source
from lab.score.metric import ChoiceLikelihoods, Score, TextLikelihood, metrics
from lab.score.reading import Finding, Preparation, Reader, Task
from lab.score.spec import ScoreSpec
from lab.score.tasks import place, read_documents, read_questions
from lab.score.verdicts import favourite_place, right_and_wrong, verdict

ONE_SIDED = 0.8
"""A model that picks the same place more often than this is not choosing among the answers."""

FEW_QUESTIONS = 20

TELL_SECONDS = 0.5
"""How often growing figures are told."""


def run(spec: ScoreSpec, job: Job) -> Outcome:
    """Score every model; stop and keep leaves what was read so far.

    Raises:
        BadInput: a file or folder changed for the worse since the job was checked.
        JobFailed: a model can't be read or answers with NaN.
    """
    board = Board(spec, job, tuple(_tasks(spec, job)))
    for model in spec.models:
        board.score(model)
        if job.stop_asked():
            break
    return Outcome(summary=board.summary(), stopped_early=job.stop_asked())


@dataclass
class Board:
    """The figures of a job while they grow.

    Attributes:
        spec, job: what is scored, and where to tell it.
        tasks: what every model reads.
        found: each model's findings, task by task.
        figures: the newest value of every "<model>/<metric>".
        items_read: items of all models so far: the step of the metric events.
    """

    spec: ScoreSpec
    job: Job
    tasks: tuple[Task, ...]
    found: dict[str, list[list[Finding]]] = field(default_factory=dict)
    figures: dict[str, float | None] = field(default_factory=dict)
    items_read: int = 0
    started: float = field(default_factory=time.monotonic)
    _told: float = float("-inf")

    def score(self, model: str) -> None:
        """Have one model read every task, or take what an earlier attempt kept."""
        keep = Keep(self.job.folder / f"model-{self.spec.models.index(model)}.json", self.tasks)
        self.found[model] = kept = keep.read()
        if kept:
            for task, found in zip(self.tasks, kept, strict=True):
                self.items_read += len(found)
                self._tell(model, task, found)
            return
        self.job.progress(self._share(model, 0.0), f"Loading {model}")
        if self._read(model):
            keep.write(self.found[model])

    def summary(self) -> dict[str, Any]:
        """Return scores, verdicts against the first model, and which questions each got right."""
        rows, verdicts, items = [], [], []
        for number, task in enumerate(self.tasks):
            for metric in metrics.reading(task.reads):
                scores = {
                    model: metric.measure(found[number], self._generator())
                    for model, found in self.found.items()
                    if len(found) > number and found[number]
                }
                for model, score in scores.items():
                    names = {"model": model, "metric": metric.name, "data": task.data}
                    rows.append(names | _figures(score))
                    if task.reads == "choices":
                        items.append(names | {"right": right_and_wrong(score)})
                base, *others = scores or [""]
                verdicts += [
                    verdict(model, base, metric, scores, self._generator()) | {"data": task.data}
                    for model in others
                ]
        return {"scores": rows, "verdicts": verdicts, "items": items}

    def _read(self, model: str) -> bool:
        """Read all tasks with one model; False when it was stopped before the end."""
        self.job.breathe()
        device = replace(self.job.device, dtype=self.spec.dtype)
        loaded = load(Source.find(model, self.job), device)
        reader = Reader(loaded.model, loaded.tokenizer, min(self.spec.context_tokens, loaded.context))
        ready = [reader.prepare(task) for task in self.tasks]
        done, total = 0, sum(item.tokens for item in ready)
        for preparation in ready:
            self._warn_of_cuts(model, preparation)
            found: list[Finding] = []
            self.found[model].append(found)
            for batch, tokens in preparation.read():
                self.job.breathe()
                found += batch
                done += tokens
                self.items_read += len(batch)
                if time.monotonic() - self._told >= TELL_SECONDS or len(found) == len(preparation.task.items):
                    self._tell(model, preparation.task, found)
                self._progress(model, done / total, preparation.task, len(found))
                if self.job.stop_asked():
                    return False
            self._warn_of_one_place(model, found)
        return True

    def _tell(self, model: str, task: Task, found: Sequence[Finding]) -> None:
        self._told = time.monotonic()
        for metric in metrics.reading(task.reads):
            self.figures[f"{model}/{metric.name}"] = metric.measure(found, None).value
        self.job.emit("metric", step=self.items_read, values=dict(self.figures))

    def _progress(self, model: str, share: float, task: Task, count: int) -> None:
        fraction = self._share(model, share)
        seconds = time.monotonic() - self.started
        what = "questions" if task.reads == "choices" else "texts"
        words = f"{model}: {count:,} of {len(task.items):,} {what}"
        self.job.progress(fraction, words, seconds_left=seconds * (1 - fraction) / fraction)

    def _share(self, model: str, share: float) -> float:
        return (self.spec.models.index(model) + share) / len(self.spec.models)

    def _warn_of_cuts(self, model: str, preparation: Preparation) -> None:
        if preparation.cut:
            self.job.note(
                f"{model}: {preparation.cut} questions are longer than its context and lost their start.",
                "warning",
            )

    def _warn_of_one_place(self, model: str, found: Sequence[Finding]) -> None:
        picks = [item.pick for item in found if isinstance(item, ChoiceLikelihoods)]
        if len(picks) >= FEW_QUESTIONS and (share := favourite_place(picks)) > ONE_SIDED:
            self.job.note(
                f"{model} picks the same place in {share:.0%} of the questions: it is hardly choosing.",
                "warning",
            )

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.spec.seed)


@dataclass(frozen=True)
class Keep:
    """What one model has read, as a file in the job's folder.

    Attributes:
        file: where it is.
        tasks: what was read, for the parts that don't change.
    """

    file: Path
    tasks: Sequence[Task]

    def write(self, found: Sequence[Sequence[Finding]]) -> None:
        """Write all findings, whole or not at all."""
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps([[asdict(item) for item in task] for task in found]))
        part.replace(self.file)

    def read(self) -> list[list[Finding]]:
        """Return the findings of an earlier attempt; nothing when it kept none."""
        if not self.file.exists():
            return []
        return [
            [_finding(task, item) for item in items]
            for task, items in zip(self.tasks, json.loads(self.file.read_text()), strict=True)
        ]


def _finding(task: Task, item: dict[str, Any]) -> Finding:
    if task.reads == "text":
        return TextLikelihood(**item)
    return ChoiceLikelihoods(tuple(item["log_likelihoods"]), tuple(item["choices"]), item["answer"])


def _figures(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n}


def _tasks(spec: ScoreSpec, job: Job) -> Iterator[Task]:
    if spec.multiple_choice is not None:
        questions = read_questions(place(spec.multiple_choice, job), spec.limit)
        yield Task("choices", spec.multiple_choice, questions)
    if spec.text is not None:
        yield Task("text", spec.text, read_documents(place(spec.text, job), spec.limit))
