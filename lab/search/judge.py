"""Scores candidate merges in memory: one resident model, merged again and read with the same data each time.

Only for processes that run jobs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lab.core.errors import BadInput, NotFound
from lab.core.job import Job
from lab.merge.live import LiveModel
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec
from lab.score.metric import metrics
from lab.score.reading import Finding, Preparation, Reader, Task
from lab.score.tasks import place, read_documents, read_questions
from lab.search.spec import SearchSpec


@dataclass(frozen=True)
class Judge:
    """Scores one recipe after the other.

    Attributes:
        spec: what to score on, and by what.
        job: where the models are found.
        live: the resident model.
        ready: the data in its tokens.
    """

    spec: SearchSpec
    job: Job
    live: LiveModel
    ready: Preparation

    @classmethod
    def open(cls, spec: SearchSpec, job: Job) -> "Judge":
        """Load the siblings and the data.

        Raises:
            BadInput: the models are no siblings, or the data can't be read.
            JobFailed: the memory is too small, or an item doesn't fit the window.
        """
        live = LiveModel(LiveRecipe.find(spec.recipe, job), replace(job.device, dtype=spec.dtype))
        window = min(spec.context_tokens, live.loaded.context)
        reader = Reader(live.loaded.model, live.loaded.tokenizer, window)
        return cls(spec, job, live, reader.prepare(task_of(spec, job)))

    def score(self, recipe: MergeSpec, breathe: Callable[[], None]) -> float | None:
        """Merge a recipe and score it; None where the method refuses its numbers.

        Args:
            recipe: of the same siblings.
            breathe: called between batches; what it raises passes.

        Raises:
            NotFound: a model was deleted meanwhile.
            JobFailed: the model answers with NaN, or a weight is not finite.
        """
        try:
            candidate = LiveRecipe.find(recipe, self.job)
        except NotFound:
            raise
        except BadInput:  # such as weights that cancel out
            return None
        found: list[Finding] = []
        with self.live.merged(candidate, threads=torch.get_num_threads(), breathe=breathe):
            for batch, _ in self.ready.read():
                breathe()
                found += batch
        return metrics[self.spec.metric].measure(found, None).value


def task_of(spec: SearchSpec, job: Job) -> Task:
    """Read the data of a search."""
    file, reads = place(spec.data, job), metrics[spec.metric].reads
    rows = read_questions(file, spec.limit) if reads == "choices" else read_documents(file, spec.limit)
    return Task(reads, spec.data, rows)
