"""Runs a merge: plan, weights, the files beside them, and the outcome to publish."""

import torch

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Job, NewModel, Outcome
from lab.core.spec import spec_sha256
from lab.merge.adapterrun import make_adapter
from lab.merge.adapters import AdapterPlan
from lab.merge.check import prepare
from lab.merge.engine import Engine
from lab.merge.folder import write_companions
from lab.merge.plan import MergePlan
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec


def run(spec: MergeSpec, job: Job) -> Outcome:
    """Merge the models and leave the result in the job's folder, to be published.

    An attempt after a crash goes on at the next unwritten shard. As many tensors are merged side by
    side as torch was given threads.

    Raises:
        JobFailed: a model changed since the job was sent, a weight is not finite, or the disk is full.
        ControlFlow: the job was cancelled, released or fenced.
    """
    try:
        plan = prepare(spec, job)
    except BadInput as error:
        raise JobFailed("models_changed", f"The models no longer fit this merge. {error}") from error
    if isinstance(plan, AdapterPlan):
        return make_adapter(spec, plan, job)
    job.note(" ".join([f"Making {plan.words}.", *plan.remarks]))
    engine = Engine(plan, job.folder / "merge", spec_sha256(spec), threads=torch.get_num_threads())
    engine.run(job)
    write_companions(spec, plan, engine.folder)
    job.progress(1.0, "Merged", 0.0)
    model = NewModel(
        name=spec.name,
        folder=engine.folder,
        kind="upscaled" if spec.is_upscaling else "merge",
        parents=plan.parents,
        words=_words(spec),
        facts=facts_of(plan),
        digests=engine.digests,
    )
    return Outcome(
        models=(model,), summary={"model": spec.name, "layers": plan.layers, "parameters": plan.parameters}
    )


def facts_of(plan: MergePlan) -> dict[str, object]:
    """Return what the catalog lists of the result."""
    config = plan.donor.config
    return {
        "architecture": config.architecture,
        "parameters": plan.parameters,
        "layers": plan.layers,
        "hidden": config.hidden,
        "vocab": config.vocab,
        "context": config.context,
        "tied": plan.tied,
        "dtype": plan.dtype,
        "method": plan.method.name,
    }


def _words(spec: MergeSpec) -> str:
    """Return the title with the numbers that are not the defaults."""
    known = merge_methods[spec.method].parameters
    knobs = [
        f"{name} {value:g}"
        for name, value in spec.parameters.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value != known[name].default
    ]
    return ", ".join([spec.title, *knobs])
