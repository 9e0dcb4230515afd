"""The job that looks into models: tensor after tensor, told layer by layer, and then in words."""

import time

import torch

from lab.core.job import Job, Outcome
from lab.merge.inspect.check import check
from lab.merge.inspect.places import place_of
from lab.merge.inspect.report import Figures, Report
from lab.merge.inspect.sample import read_tensor
from lab.merge.inspect.spec import InspectSpec
from lab.merge.inspect.words import sentences
from lab.merge.reading import Reader

TELL_SECONDS = 0.5
MOST_TOLD = 64
"""So many tensors are told in one event at most."""


def run(spec: InspectSpec, job: Job) -> Outcome:
    """Read every tensor in all models; the figures are told as events, the sentences are the summary.

    Raises:
        BadInput: a model changed for the worse since the job was checked.
        ControlFlow: the job was cancelled, released or fenced.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small pieces: more threads only fight
    try:
        report = look(spec, job)
    finally:
        torch.set_num_threads(threads)
    said = [{"text": one.text, "look": one.look} for one in sentences(report)]
    return Outcome(
        summary={"sentences": said, "tensors": len(report.figures), "read": report.read,
                 "elements": report.elements, "left_out": list(report.left_out)[:20]}
    )  # fmt: skip


def look(spec: InspectSpec, job: Job) -> Report:
    """Read every tensor in all models, and tell the figures of each layer when it is done."""
    found = check(spec, job)
    reader, begun, told = Reader(), time.monotonic(), float("-inf")
    figures: list[Figures] = []
    waiting: list[Figures] = []
    size = max(1, sum(found.base.tensors[name].elements for name in found.tensors))
    done = 0
    for name in found.tensors:
        layer = place_of(name).layer
        if waiting and (place_of(waiting[-1].name).layer != layer or len(waiting) >= MOST_TOLD):
            tell(job, waiting)
        one = read_tensor(name, found.base, found.models, reader, sample=not spec.exact, tick=job.breathe)
        figures.append(one)
        waiting.append(one)
        done += one.elements if spec.exact else 0
        now = time.monotonic()
        if now - told >= TELL_SECONDS:
            told = now
            share = done / size if spec.exact else len(figures) / len(found.tensors)
            left = (now - begun) * (1 - share) / share if share else None
            job.progress(share, f"{len(figures)} of {len(found.tensors)} tensors", left)
    tell(job, waiting)
    return Report(spec.base, spec.models, figures, spec.purpose, found.left_out)


def tell(job: Job, waiting: list[Figures]) -> None:
    """Tell these tensors' figures, and forget that they wait."""
    job.emit("figures", tensors=[one.as_json() for one in waiting])
    waiting.clear()
