"""Whether a merge can work, before it is queued: from headers, configs and a probe of the method.

Reads no weight, but for the samples of a remark. The page shows what it returns; what it raises names
the field at fault.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.merge.adapters import adapter_plan
from lab.merge.calibration import with_reading
from lab.merge.chat_template import check_template
from lab.merge.draws import Draws
from lab.merge.ingredients import Ingredient, read_ingredient
from lab.merge.patching import remarks_on
from lab.merge.plan import MergePlan, donor_of, plan_of
from lab.merge.spec import MergeSpec
from lab.merge.steps import planned
from lab.merge.units import refuse_unknown_units
from lab.merge.vocabulary import plan_vocabulary
from lab.models.lazytorch import torch

ROOM_FOR_SMALL_FILES = 64 << 20
"""Bytes for tokenizer, config and card beside the weights."""


def check(spec: MergeSpec, shelf: Shelf) -> MergePlan:
    """Work out what a merge makes, and refuse what can't work.

    Raises:
        BadInput: names the field, what we saw, what we expected and what to do.
    """
    plan = prepare(spec, shelf)
    size = plan.size_bytes + sum(step.size_bytes for step in plan.before)
    work = plan.work_bytes + sum(step.work_bytes for step in plan.before)
    check_room(size, shelf, field="out_dtype", work_bytes=work)
    return plan


def check_room(size_bytes: int, shelf: Shelf, field: str, work_bytes: int = 0) -> None:
    """Refuse a result that the disk has no room for.

    Args:
        size_bytes: of the result.
        shelf: knows the disk.
        field: what to name as its cause.
        work_bytes: what is written beside it meanwhile.

    Raises:
        BadInput: says how much it takes and how much there is.
    """
    need, have = int(size_bytes * 1.2) + work_bytes + ROOM_FOR_SMALL_FILES, shelf.free_disk_bytes()
    if need > have:
        raise BadInput(
            f"This takes up to {need / 1e9:.2f} GB and the disk has {have / 1e9:.2f} GB free.",
            "A merge is written whole before it is published.",
            "Delete models that you don't need, or choose a smaller dtype.",
            field=field,
        )


def prepare(spec: MergeSpec, shelf: Shelf, work: Path | None = None) -> MergePlan:
    """Read the models' headers and return the plan; the part of `check` that a running job repeats.

    Args:
        spec: the merge.
        shelf: where models are found.
        work: where the steps before it are made, a folder for each.

    Raises:
        BadInput: the models or the settings don't fit.
    """
    made: dict[str, Ingredient] = {}
    before = []
    for step in spec.intermediates:
        try:
            plan = _plan(step, shelf, made)
        except BadInput as error:
            raise error.at(f"{step.name}.{error.field}" if error.field else step.name) from error
        before.append(plan)
        made[step.name] = planned(step.name, plan, (work or Path()) / step.name)
    return replace(_plan(spec, shelf, made), before=tuple(before))


def _plan(spec: MergeSpec, shelf: Shelf, made: Mapping[str, Ingredient]) -> MergePlan:
    """Plan one merge; `made` are the results of those before it."""
    models, extras = {}, {}
    for ref in spec.references():
        models[ref] = _found(ref, shelf, made, field_of(spec, ref))
    for ref in spec.tokenizer.models() if spec.tokenizer else ():
        if ref not in models:
            extras[ref] = _found(ref, shelf, made, "tokenizer")
    _same_family(spec, models)
    vocabulary = None
    if spec.tokenizer:
        donor = donor_of(spec, models)
        vocabulary = plan_vocabulary(spec.tokenizer, models | extras, donor, spec.base_model, extras)
    if spec.chat_template:
        check_template(spec.chat_template)
    plan = plan_of(spec, models, vocabulary)
    _probe(spec, plan)
    if plan.method.calibration == "units":
        refuse_unknown_units(plan)
    plan = with_reading(spec, replace(plan, remarks=remarks_on(plan)), shelf)
    return adapter_plan(spec, plan, models) if spec.result == "adapter" else plan


def _found(ref: str, shelf: Shelf, made: Mapping[str, Ingredient], field: str) -> Ingredient:
    try:
        return read_ingredient(ref, shelf, made)
    except BadInput as error:
        raise error.at(field) from error


def field_of(spec: MergeSpec, ref: str) -> str:
    """Return the path of the field that first names a model."""
    if ref == spec.base_model:
        return "base_model"
    for place, part in enumerate(spec.parts()):
        path = f"slices.{place}" if spec.slices else ""
        if ref == part.base_model:
            return f"{path}.base_model"
        for i, source in enumerate(part.sources):
            if source.model == ref:
                return f"{path}.sources.{i}.model" if path else f"models.{i}.model"
    return "models"


def _same_family(spec: MergeSpec, models: dict[str, Ingredient]) -> None:
    """Refuse models of different architecture, vocabulary or width, naming the two that differ."""
    first = next(iter(models.values()))
    for ref, model in models.items():
        field = field_of(spec, ref)
        if model.config.architecture != first.config.architecture:
            raise BadInput(
                f"{ref} is a {model.config.architecture}, {first.ref} a {first.config.architecture}.",
                "Models of one architecture can be merged.",
                "Choose fine-tunes of the same base.",
                field=field,
            )
        if model.config.vocab != first.config.vocab and not spec.tokenizer:
            raise BadInput(
                f"{ref} has a vocabulary of {model.config.vocab:,}, {first.ref} of {first.config.vocab:,}.",
                "Without a tokenizer setting embeddings are merged row by row, so all have the same size.",
                "Choose a vocabulary for the result: tokenizer_source: union keeps every model's tokens, "
                "tokenizer_source: base only the base's. Or choose models that share a tokenizer.",
                field=field,
            )
        if model.config.hidden != first.config.hidden:
            raise BadInput(
                f"{ref} has a width of {model.config.hidden}, {first.ref} one of {first.config.hidden}.",
                "Models are merged tensor by tensor, so all have the same sizes.",
                "Choose models of one size.",
                field=field,
            )


def _probe(spec: MergeSpec, plan: MergePlan) -> None:
    """Try the method on two ones with every set of weights and knobs, so that it refuses now, not later."""
    tried = set()
    for tensor in plan.tensors:
        case = (tensor.weights, tuple(sorted(tensor.knobs.items())))
        if tensor.copied or case in tried:
            continue
        tried.add(case)
        try:
            plan.method.function(
                torch.ones(len(tensor.inputs), 1, 2),
                torch.tensor(tensor.weights),
                **plan.method.arguments(tensor.knobs, Draws()),
            )
        except ValueError as error:
            field = "models" if spec.models else "slices"
            raise BadInput(f"For {tensor.name}: {error}", field=field) from error
