"""What a merge of LoRA adapters makes when the result is to be an adapter itself. Reads no weight.

Every method is given the adapters' changes, their base left out. Where the method is a plain weighted
sum, the factors are stacked, which is exact; what other methods make is cut to a rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Final

from lab.core.errors import BadInput
from lab.merge.ingredients import Fold, Ingredient
from lab.merge.plan import DTYPE_WORDS, FLOATS, START_SECONDS, MergePlan, OutputTensor, short_count
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec
from lab.models.headers import ITEM_BYTES

SUMS: Final = ("linear", "task_arithmetic")
"""Methods whose result is a weighted sum of the changes, so that the factors can be stacked."""

_SECONDS_PER_ELEMENT = 3e-8  # the leading singular values of a matrix, on one core


@dataclass(frozen=True, kw_only=True)
class AdapterPlan(MergePlan):
    """What comes out of a merge of adapters; `tensors` are the matrices that one of them changes.

    Attributes:
        rank: of the result, the same for all its matrices.
        base_ref: the base as the adapters name it.
    """

    rank: int = field(kw_only=True)
    base_ref: str = field(kw_only=True)

    @cached_property
    def parameters(self) -> int:
        """How many numbers the result holds."""
        return sum(self.rank * sum(tensor.shape) for tensor in self.tensors)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the result's weights."""
        return self.parameters * ITEM_BYTES[self.tensors[0].dtype]

    @cached_property
    def seconds(self) -> float:
        """About how long the merge takes on one core."""
        if self.method.name in SUMS:
            return START_SECONDS
        dense = sum(tensor.elements for tensor in self.tensors)
        models = max(len(tensor.inputs) for tensor in self.tensors)
        return START_SECONDS + dense * (_SECONDS_PER_ELEMENT + models * self.method.nanoseconds * 1e-9)

    @property
    def size_words(self) -> str:
        """What will come out, for people."""
        parameters, size = short_count(self.parameters), self.size_bytes / 1e6
        return (
            f"an adapter of rank {self.rank} on {len(self.tensors)} matrices of {self.base_ref}, "
            f"{parameters} parameters, {size:.3g} MB in {self.dtype}"
        )


def adapter_plan(spec: MergeSpec, plan: MergePlan, models: Mapping[str, Ingredient]) -> AdapterPlan:
    """Turn the plan of a merge into that of the adapter it is to make.

    Args:
        spec: a merge whose result is an adapter.
        plan: its plan, tensor by tensor.
        models: every model that it uses, by name.

    Raises:
        BadInput: an input is no adapter, or of another base, or carries whole tensors; or the method
            needs whole models.
    """
    _refuse_method(spec)
    _refuse_whole_models(spec)
    _refuse_first_pass(plan)
    adapters = [models[source.model] for source in spec.models if source.model != spec.base_model]
    for place, adapter in enumerate(adapters):
        _refuse_input(adapter, adapters[0], place)
    base_ref = adapters[0].parents[0]
    base = models[spec.base_model] if spec.base_model else None
    if base and (base.folds or not _is_base(base, adapters[0])):
        raise BadInput(
            f"The base is {spec.base_model}, and {adapters[0].ref} is an adapter of {base_ref}.",
            "The changes of adapters are counted from their own base.",
            f"Choose {base_ref} as base, or let the result be a full model.",
            field="base_model",
        )
    dtype = _dtype(spec, adapters)
    tensors = tuple(replace(tensor, dtype=dtype) for tensor in plan.tensors if any(folds_of(tensor)))
    parents = dict.fromkeys([base_ref, *(adapter.ref for adapter in adapters)])
    kept = {one.name: getattr(plan, one.name) for one in fields(MergePlan)}
    return AdapterPlan(
        **(kept | {"tensors": tensors, "parents": tuple(parents)}),
        rank=_rank(spec, tensors),
        base_ref=base_ref,
    )


def folds_of(tensor: OutputTensor) -> list[Fold | None]:
    """Return each input's change of a matrix; None where an adapter leaves it as it is."""
    return [part.model.folds.get(part.tensor) for part in tensor.inputs]


def _refuse_method(spec: MergeSpec) -> None:
    if spec.method not in SUMS and merge_methods[spec.method].space != "delta":
        raise BadInput(
            f"{spec.method} works on whole models, not on changes of a base.",
            f"Adapters are merged by {', '.join(SUMS)} and the methods that take deltas, such as ties.",
            "Choose one of those, or let the result be a full model.",
            field="method",
        )
    if spec.slices:
        raise BadInput(
            "The recipe has slices.",
            "An adapter fits its base layer by layer.",
            "List the adapters under models, or let the result be a full model.",
            field="slices",
        )


def _refuse_whole_models(spec: MergeSpec) -> None:
    """Refuse what only a full model has: a vocabulary, a chat template, merges on the way to it."""
    for part in ("tokenizer", "chat_template", "intermediates"):
        if getattr(spec, part):
            raise BadInput(
                f"The recipe has {part}.",
                "An adapter takes its vocabulary and template from its base, and is merged from adapters.",
                "Take it out, or let the result be a full model.",
                field=part,
            )


def _refuse_first_pass(plan: MergePlan) -> None:
    first = plan.method.statistics
    if first and any(first.rounds_for(tensor.knobs) for tensor in plan.tensors):
        raise BadInput(
            f"{plan.method.name} is set to compare whole layers or models first.",
            "Adapters are merged matrix by matrix.",
            "Let the method look at each matrix alone, or let the result be a full model.",
            field="method",
        )


def _refuse_input(adapter: Ingredient, first: Ingredient, place: int) -> None:
    field = f"models.{place}.model"
    if not adapter.folds:
        raise BadInput(
            f"{adapter.ref} is a full model.",
            "An adapter is made from adapters alone.",
            "Leave it out, or let the result be a full model.",
            field=field,
        )
    if not _is_base(first, adapter):
        raise BadInput(
            f"{adapter.ref} is an adapter of {adapter.parents[0]}, {first.ref} one of {first.parents[0]}.",
            "Adapters of one base can become one adapter.",
            "Leave one of them out, or let the result be a full model.",
            field=field,
        )
    own = next(iter(adapter.folds.values())).down.file.parent
    whole = [name for name, info in adapter.tensors.items() if info.file.parent == own]
    if whole:
        raise BadInput(
            f"{adapter.ref} carries whole tensors besides its factors, such as {whole[0]} (modules_to_save).",
            "A merged adapter holds low-rank factors only.",
            "Let the result be a full model: that takes them along.",
            field=field,
        )


def _is_base(model: Ingredient, adapter: Ingredient) -> bool:
    """Whether two models stand on the same folder."""
    return model.folder.resolve() == adapter.folder.resolve()


def _dtype(spec: MergeSpec, adapters: list[Ingredient]) -> str:
    if chosen := spec.out_dtype or spec.dtype:
        return DTYPE_WORDS[chosen]
    dtypes = {fold.down.dtype for adapter in adapters for fold in adapter.folds.values()}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= set(FLOATS) - {"F64"} else "F32"


def _rank(spec: MergeSpec, tensors: tuple[OutputTensor, ...]) -> int:
    """Return the rank that was chosen, or what the method needs, and never more than is of use."""
    ranks = [[fold.down.shape[0] for fold in folds_of(tensor) if fold] for tensor in tensors]
    stacked = max(sum(row) for row in ranks)
    if spec.method in SUMS:
        return min(spec.rank or stacked, stacked)
    widest = max(min(tensor.shape) for tensor in tensors)
    return min(spec.rank or max(max(row) for row in ranks), widest)
