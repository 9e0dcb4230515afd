"""Runs a merge: plan, weights, the files beside them, and the outcome to publish."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Job, NewModel, Outcome
from lab.core.spec import spec_sha256
from lab.merge.adapterrun import make_adapter
from lab.merge.adapters import AdapterPlan
from lab.merge.aligning import align
from lab.merge.calibration import readings_of
from lab.merge.check import prepare
from lab.merge.cost import foretold, metered, told
from lab.merge.engine import Engine
from lab.merge.folder import write_companions
from lab.merge.plan import MergePlan, OutputTensor
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec
from lab.merge.statistics import Known
from lab.merge.steps import Share, shares
from lab.merge.vocabulary import VocabularyPlan


def run(spec: MergeSpec, job: Job) -> Outcome:
    """Merge the models and leave the result in the job's folder, to be published.

    An attempt after a crash goes on at the next unwritten shard, of the steps before the result too. As
    many tensors are merged side by side as torch was given threads.

    Raises:
        JobFailed: a model changed since the job was sent, a weight is not finite, or the disk is full.
        ControlFlow: the job was cancelled, released or fenced.
    """
    steps = job.folder / "steps"
    try:
        plan = prepare(spec, job, steps)
    except BadInput as error:
        raise JobFailed("models_changed", f"The models no longer fit this merge. {error}") from error
    if isinstance(plan, AdapterPlan):
        return make_adapter(spec, plan, job)
    job.note(" ".join([f"Making {plan.words}.", *plan.remarks]))
    with metered() as meter:
        models = _make_all(spec, plan, job, steps)
    job.progress(1.0, "Merged", 0.0)
    summary = {
        "model": spec.name,
        "layers": plan.layers,
        "parameters": plan.parameters,
        "cost": told(foretold(plan, torch.get_num_threads()), meter, models[-1].folder),
    }
    return Outcome(models=tuple(models), summary=summary)


def _make(spec: MergeSpec, plan: MergePlan, work: Path, job: Job) -> NewModel:
    """Write one merge's weights and what lies beside them."""
    recipe = spec_sha256(spec)
    found = _found_first(spec, plan, work, recipe, job) if plan.method.calibration else None
    engine = Engine(plan, work, recipe, threads=torch.get_num_threads(), found=found)
    engine.run(job)
    write_companions(spec, plan, engine.folder, job.note)
    return NewModel(
        name=spec.name,
        folder=engine.folder,
        kind="upscaled" if spec.is_upscaling else "merge",
        parents=spec.models_used(),
        words=_words(spec),
        facts=facts_of(plan),
        digests=engine.digests,
    )


def _make_all(spec: MergeSpec, plan: MergePlan, job: Job, steps: Path) -> list[NewModel]:
    """Make the merges on the way and then the result, which is the last; return what is to be listed."""
    plans = [*plan.before, plan]
    specs = [*(spec.alone(place) for place in range(len(spec.intermediates))), spec]
    models = []
    for one, part, (start, end) in zip(specs, plans, shares([p.parameters for p in plans]), strict=True):
        is_last = one is spec
        if not is_last:
            job.note(f"First {one.name}: {part.size_words}.")
        share = Share(job, start, end, "" if is_last else f"{one.name}: ")
        work = job.folder / "merge" if is_last else steps / one.name
        made = _make(one, part, work, cast(Job, share))
        if is_last or spec.keep_intermediates:
            models.append(made if is_last else replace(made, name=spec.name_of(one)))
    return models


def _found_first(
    spec: MergeSpec, plan: MergePlan, work: Path, recipe: str, job: Job
) -> Callable[[OutputTensor], Known]:
    """Find out about the models what the method asks for."""
    if not plan.method.reads_text:
        return align(plan, work / "units.safetensors", recipe, job).known_for
    from lab.merge.calibrating import calibrate  # loads transformers, which other merges do without

    try:
        return calibrate(plan, readings_of(spec, job), work / "read", recipe, job).known_for
    except BadInput as error:
        raise JobFailed("models_changed", f"The models can't read their texts. {error}") from error


def facts_of(plan: MergePlan) -> dict[str, object]:
    """Return what the catalog lists of the result."""
    config = plan.donor.config
    return {
        "architecture": config.architecture,
        "parameters": plan.parameters,
        "layers": plan.layers,
        "hidden": config.hidden,
        "vocab": plan.vocab,
        "context": config.context,
        "tied": plan.tied,
        "dtype": plan.dtype,
        "method": plan.method.name,
        **({"vocabulary": _vocabulary_facts(plan.vocabulary)} if plan.vocabulary else {}),
    }


def _vocabulary_facts(plan: VocabularyPlan) -> dict[str, object]:
    """Return what became of the models' vocabularies, for the manifest."""
    return {
        "tokenizer_of": plan.donor.ref,
        "added": len(plan.new),
        "models": [asdict(tally) for tally in plan.tally],
        "notes": list(plan.notes),
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
