"""Merges on the way to a result: what one will be before it is made, and its share of the progress."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.core.job import Job
from lab.merge.folder import config_of
from lab.merge.ingredients import Ingredient
from lab.merge.output import lay_out
from lab.merge.plan import MergePlan
from lab.models.headers import TensorInfo


def planned(name: str, plan: MergePlan, work: Path) -> Ingredient:
    """Return what a step will be to the merges after it, as if its files were there.

    Args:
        name: what the recipe calls it.
        plan: what it will hold.
        work: the folder in which its engine works.
    """
    folder = work / "model"
    tensors = {
        tensor.name: TensorInfo(
            tensor.dtype, tensor.shape, folder / shard.file, start, start + tensor.size_bytes
        )
        for shard in lay_out(plan.tensors)
        for tensor, start in zip(shard.tensors, shard.starts, strict=True)
    }
    donor = plan.donor
    return Ingredient(
        ref=name,
        folder=folder,
        config=replace(donor.config, layers=plan.layers, vocab=plan.vocab, tied=plan.tied),
        raw=config_of(plan),
        tensors=tensors,
        vocabulary=plan.vocabulary.vocabulary if plan.vocabulary else donor.vocabulary,
        tokenizer_folder=donor.tokenizer_folder or donor.folder,
    )


@dataclass
class Share:
    """A job that does one of several merges: its progress is a part of the whole.

    Attributes:
        job: the job.
        start, end: the part, of 1.
        words: said before the progress's own.
    """

    job: Job
    start: float
    end: float
    words: str = ""

    def progress(self, fraction: float, words: str = "", seconds_left: float | None = None) -> None:
        """Tell how far the whole is."""
        self.job.progress(
            self.start + fraction * (self.end - self.start), f"{self.words}{words}", seconds_left
        )

    def __getattr__(self, name: str) -> Any:
        """Be the job in all else."""
        return getattr(self.job, name)


def shares(sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Divide 1 among merges by the numbers that they write; return where each begins and ends."""
    total, ends = max(1, sum(sizes)), [0.0]
    for size in sizes:
        ends.append(ends[-1] + size / total)
    return list(pairwise(ends))
