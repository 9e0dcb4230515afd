"""Whether a merge can work, before it is queued: from headers, configs and a probe of the method.

Reads no weight, but for the samples of a remark. The page shows what it returns; what it raises names
the field at fault.
"""

from dataclasses import replace

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.merge.adapters import adapter_plan
from lab.merge.draws import Draws
from lab.merge.ingredients import Ingredient, read_ingredient
from lab.merge.patching import remarks_on
from lab.merge.plan import MergePlan, plan_of
from lab.merge.spec import MergeSpec
from lab.models.lazytorch import torch

ROOM_FOR_SMALL_FILES = 64 << 20
"""Bytes for tokenizer, config and card beside the weights."""


def check(spec: MergeSpec, shelf: Shelf) -> MergePlan:
    """Work out what a merge makes, and refuse what can't work.

    Raises:
        BadInput: names the field, what we saw, what we expected and what to do.
    """
    plan = prepare(spec, shelf)
    need, have = int(plan.size_bytes * 1.2) + ROOM_FOR_SMALL_FILES, shelf.free_disk_bytes()
    if need > have:
        raise BadInput(
            f"The result takes up to {need / 1e9:.2f} GB and the disk has {have / 1e9:.2f} GB free.",
            "A merge is written whole before it is published.",
            "Delete models that you don't need, or choose a smaller dtype.",
            field="out_dtype",
        )
    return plan


def prepare(spec: MergeSpec, shelf: Shelf) -> MergePlan:
    """Read the models' headers and return the plan; the part of `check` that a running job repeats.

    Raises:
        BadInput: the models or the settings don't fit.
    """
    models = {}
    for ref in spec.models_used():
        try:
            models[ref] = read_ingredient(ref, shelf)
        except BadInput as error:
            raise error.at(field_of(spec, ref)) from error
    _same_family(spec, models)
    plan = plan_of(spec, models)
    _probe(spec, plan)
    plan = replace(plan, remarks=remarks_on(plan))
    return adapter_plan(spec, plan, models) if spec.result == "adapter" else plan


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
        if model.config.vocab != first.config.vocab:
            raise BadInput(
                f"{ref} has a vocabulary of {model.config.vocab:,}, {first.ref} of {first.config.vocab:,}.",
                "Embeddings are merged row by row, so all vocabularies have the same size.",
                "Choose models that share a tokenizer.",
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
