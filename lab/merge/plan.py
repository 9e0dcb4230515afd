"""What a merge will make, tensor by tensor, worked out from headers and configs alone.

The check before submitting and the engine use the same plan. Reads no weight.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.core.need import UNKNOWN, Need
from lab.merge.ingredients import EMBEDDINGS, HEAD, Ingredient
from lab.merge.parameters import Scalar, place_of, value_for
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.spec import MergeSpec, Slice, Source
from lab.merge.vocabulary import Relayout, VocabularyPlan, has_vocabulary
from lab.models.headers import ITEM_BYTES, TensorInfo

FLOATS = ("F16", "BF16", "F32", "F64")
DTYPE_WORDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
START_SECONDS = 2.0
WRITTEN_BYTES_PER_SECOND = 5e8

_BEFORE_LAYERS = ("embed", "wte", "wpe")


@dataclass(frozen=True)
class Part:
    """One tensor of one model."""

    model: Ingredient
    tensor: str

    @property
    def info(self) -> TensorInfo:
        """Where it lies."""
        return self.model.tensors[self.tensor]


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the result.

    Attributes:
        name: its name in the result.
        dtype: in the file format's words: "BF16".
        shape: its sizes.
        inputs: what it is merged from, in order; the base is not among them.
        base: what deltas are taken from, for methods that work on deltas.
        weights: each input's weight; ones where the method has none.
        knobs: the method's knobs, by argument name.
        copied: whether it is not merged but copied: no floating point numbers.
        relayout: of a tensor with a row for each token, where the rows come from; None leaves them in place.
        lenders: the same tensor in the models that lend rows to others.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[Part, ...]
    base: Part | None
    weights: tuple[float, ...]
    knobs: Mapping[str, Any]
    copied: bool = False
    relayout: Relayout | None = None
    lenders: tuple[Part, ...] = ()

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its data."""
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class MergePlan:
    """What comes out of a merge.

    Attributes:
        method: the merge method.
        tensors: every tensor of the result, in the order of its files.
        donor: the model whose config and tokenizer the result takes.
        layers: how many layers the result has.
        layer_origins: for each output layer, the model and the layer that its settings come from.
        tied: whether the output head is the embedding, and so not written.
        parents: names of the models it comes from, base first.
        seed: of the method's random numbers.
        remarks: what else to know before it is made, in sentences.
        vocabulary: the result's own, where the recipe asks for one; None keeps the donor's.
        before: what is made first, in order.
        folders: of the models, the donor's first; for their chat templates.
        reading_seconds: about how long its models read texts first.
        work_bytes: what is written beside the result while it is made.
        need: the memory that it takes, where that is more than a few buffers.
    """

    method: MergeMethod
    tensors: tuple[OutputTensor, ...]
    donor: Ingredient
    layers: int
    layer_origins: tuple[tuple[Ingredient, int], ...]
    tied: bool
    parents: tuple[str, ...]
    seed: int = 0
    remarks: tuple[str, ...] = ()
    vocabulary: VocabularyPlan | None = None
    before: tuple["MergePlan", ...] = ()
    folders: tuple[Path, ...] = ()
    reading_seconds: float = 0.0
    work_bytes: int = 0
    need: Need = UNKNOWN

    @property
    def vocab(self) -> int:
        """How many rows the result's embedding has."""
        return self.vocabulary.relayout.total if self.vocabulary else self.donor.config.vocab

    @cached_property
    def parameters(self) -> int:
        """How many numbers the result holds."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of the result's weights."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @cached_property
    def dtype(self) -> str:
        """The dtype of most of the result, in torch's words."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
        words = {short: word for word, short in DTYPE_WORDS.items()}
        return words.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")

    @cached_property
    def seconds(self) -> float:
        """About how long the merge takes on one core, with all that is made before it."""
        read = sum(tensor.elements * len(tensor.inputs) for tensor in self.tensors)
        return (
            START_SECONDS
            + read * self.method.nanoseconds * 1e-9
            + self.size_bytes / WRITTEN_BYTES_PER_SECOND
            + self.first_seconds
            + self.reading_seconds
            + sum(plan.seconds for plan in self.before)
        )

    @cached_property
    def first_seconds(self) -> float:
        """About how long of that goes into what the method has to know of many tensors first."""
        first = self.method.statistics
        if first is None:
            return 0.0
        rounds = [
            tensor.elements * len(tensor.inputs) * first.rounds_for(tensor.knobs)
            for tensor in self.tensors
            if not tensor.copied
        ]
        return sum(rounds) * first.nanoseconds * 1e-9

    @property
    def size_words(self) -> str:
        """What will come out, for people: "30 layers, 134.5 million parameters, 269 MB in bfloat16"."""
        parameters = short_count(self.parameters)
        size = _short(self.size_bytes, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB")))
        return f"{self.layers} layers, {parameters} parameters, {size} in {self.dtype}"

    @property
    def words(self) -> str:
        """What will come out and how long it takes, in one line for people."""
        time = f"{self.seconds / 60:.0f} minutes" if self.seconds >= 90 else f"{self.seconds:.0f} seconds"
        return f"{self.size_words}, about {time}"


def plan_of(
    spec: MergeSpec, models: Mapping[str, Ingredient], vocabulary: VocabularyPlan | None = None
) -> MergePlan:
    """Work out every tensor of the result.

    Args:
        spec: the merge.
        models: every model that it uses, by reference.
        vocabulary: the result's own, where it has one.

    Raises:
        BadInput: the models don't fit each other or the layer ranges; names the field and the tensor.
    """
    drafts = [_Draft(spec, models, vocabulary, place) for place in range(len(spec.parts()))]
    donor = donor_of(spec, models)
    tied = all(model.config.tied for model in models.values())
    outer = _outer_names(donor, models.values(), tied)
    before = [name for name in outer if any(word in name for word in _BEFORE_LAYERS)]
    tensors = [drafts[0].outer(name) for name in before]
    origins: list[tuple[Ingredient, int]] = []
    for draft in drafts:
        for layer in range(draft.layers):
            tensors += draft.layer(layer, len(origins))
            origins.append(draft.origin(layer))
    tensors += [drafts[-1].outer(name) for name in outer if name not in before]
    return MergePlan(
        merge_methods[spec.method],
        tuple(tensors),
        donor,
        len(origins),
        tuple(origins),
        tied,
        spec.models_used(),
        seed=spec.seed,
        vocabulary=vocabulary,
        folders=(donor.folder, *(model.folder for model in models.values() if model is not donor)),
    )


def donor_of(spec: MergeSpec, models: Mapping[str, Ingredient]) -> Ingredient:
    """Return the model whose config the result takes: the base, or else the first."""
    return models[spec.base_model or spec.parts()[0].sources[0].model]


class _Draft:
    """One slice of a merge while its tensors are worked out."""

    def __init__(
        self,
        spec: MergeSpec,
        models: Mapping[str, Ingredient],
        vocabulary: VocabularyPlan | None,
        place: int,
    ) -> None:
        part: Slice = spec.parts()[place]
        self._spec, self._part, self._vocabulary = spec, part, vocabulary
        self._method = merge_methods[spec.method]
        self.path = f"slices.{place}.sources" if spec.slices else "models"
        self._ranges = [self._range(source, models[source.model], i) for i, source in enumerate(part.sources)]
        self.layers = self._ranges[0][1] - self._ranges[0][0]
        self.sources: list[tuple[Source, Ingredient, int]] = [
            (source, models[source.model], first)
            for source, (first, _) in zip(part.sources, self._ranges, strict=True)
        ]
        base = part.base_model or spec.base_model
        self._check_lengths(models[base] if base and not spec.slices else None)
        self._base = models[base] if base and self._method.base != "none" else None
        self._arrange()

    def _range(self, source: Source, model: Ingredient, place: int) -> tuple[int, int]:
        first, end = source.layer_range or (0, model.config.layers)
        if end > model.config.layers:
            raise BadInput(
                f"The layer range {first} to {end} goes beyond {source.model}, "
                f"which has {model.config.layers} layers.",
                f"Layers are counted from 0, the end not included: at most 0 to {model.config.layers}.",
                "Choose a smaller end.",
                field=f"{self.path}.{place}.layer_range",
            )
        return first, end

    def _check_lengths(self, base: Ingredient | None) -> None:
        """Refuse models of different depth; of whole models the base counts too."""
        lengths = {} if base is None else {base.ref: base.config.layers}
        lengths |= {
            source.model: end - first
            for (source, _, _), (first, end) in zip(self.sources, self._ranges, strict=True)
        }
        if len(set(lengths.values())) > 1:
            raise BadInput(
                f"The models have different numbers of layers: {_listed(lengths)}.",
                "Models are merged layer by layer.",
                "Use slices to say which layers of each to merge, or choose models of the same size.",
                field=self.path,
            )

    def _arrange(self) -> None:
        """Take the base out of the inputs, or put it first, as the method has it."""
        self._inputs, self._base_first = self.sources, 0
        if self._base is None:
            return
        listed = [first for _, model, first in self.sources if model is self._base]
        self._base_first = listed[0] if listed else self.sources[0][2]
        others = [source for source in self.sources if source[1] is not self._base]
        if self._method.base == "first":
            own = Source.model_construct(model=self._base.ref, layer_range=None, parameters={})
            again = [source for source in self.sources if source[1] is self._base][1:]
            others = [(own, self._base, self._base_first), *others, *again]
            self._base = None
        self._inputs = others

    def outer(self, name: str) -> OutputTensor:
        """Return a tensor that belongs to no layer."""
        return self._merged(name, [name] * len(self._inputs), name, 0.0)

    def layer(self, layer: int, output: int) -> Iterator[OutputTensor]:
        """Return the tensors of one layer of the slice, numbered as the output's."""
        used = [(model, first + layer) for _, model, first in self._inputs]
        if self._base:
            used.append((self._base, self._base_first + layer))
        blocks = self._blocks(used)
        for rest, full in blocks[0].items():
            stem = full.removesuffix(f".{used[0][1]}.{rest}")
            names = [block[rest] for block in blocks]
            place = place_of(layer, self.layers)
            yield self._merged(f"{stem}.{output}.{rest}", names[: len(self._inputs)], names[-1], place)

    def _blocks(self, used: Sequence[tuple[Ingredient, int]]) -> list[Mapping[str, str]]:
        """Return the tensors of these layers; refuse one that only some of them have."""
        blocks: list[Mapping[str, str]] = [model.layers.get(layer, {}) for model, layer in used]
        every = set().union(*blocks)
        for (model, layer), block in zip(used, blocks, strict=True):
            if missing := sorted(every - set(block)):
                raise _lacks(model, f"layer {layer}, {missing[0]}", self.path)
        return blocks

    def origin(self, layer: int) -> tuple[Ingredient, int]:
        """Return the model and the layer whose settings an output layer takes."""
        _, model, first = self._inputs[0]
        return model, first + layer

    def _merged(self, name: str, names: Sequence[str], base_name: str, place: float) -> OutputTensor:
        inputs = tuple(
            self._part_of(model, tensor) for (_, model, _), tensor in zip(self._inputs, names, strict=True)
        )
        base = self._part_of(self._base, base_name) if self._base is not None else None
        every = (*inputs, base) if base else inputs
        relaid = self._vocabulary if self._vocabulary and has_vocabulary(name) else None
        lenders = (
            tuple(self._part_of(relaid.models[ref], name) for ref in relaid.relayout.lenders)
            if relaid
            else ()
        )
        _check_shapes(name, (*every, *lenders), self.path, but_rows=relaid is not None)
        copied = _is_copied(name, every)
        weights = tuple(self._weight(i, tensor, place) for i, tensor in enumerate(names))
        knobs = {} if copied else self._knobs(name, names, place)
        tensor = OutputTensor(
            name, self._dtype(every), inputs[0].info.shape, inputs, base, weights, knobs, copied
        )
        if relaid is None:
            return tensor
        shape = (relaid.relayout.total, *tensor.shape[1:])
        return replace(tensor, shape=shape, relayout=relaid.relayout, lenders=lenders)

    def _part_of(self, model: Ingredient, tensor: str) -> Part:
        found = model.tensor(tensor)
        if found is None:
            raise _lacks(model, tensor, self.path)
        return Part(model, found)

    def _dtype(self, parts: Sequence[Part]) -> str:
        dtypes = {part.info.dtype for part in parts}
        if not dtypes <= set(FLOATS):
            return parts[0].info.dtype
        if chosen := self._spec.out_dtype or self._spec.dtype:
            return DTYPE_WORDS[chosen]
        return dtypes.pop() if len(dtypes) == 1 and "F64" not in dtypes else "F32"

    def _weight(self, place: int, tensor: str, depth: float) -> float:
        if not self._method.weighted:
            return 1.0
        value = self._value("weight", self._inputs[place][0], tensor, depth, None)
        if value is None:
            raise BadInput(
                f"{self._inputs[place][1].ref} has no weight for {tensor}.",
                f"{self._method.name} needs a weight for every model and tensor.",
                "Give the model a weight; after filters, one without a filter for the rest.",
                field=f"{self.path}.{place}.parameters.weight",
            )
        return float(value)

    def _knobs(self, name: str, names: Sequence[str], place: float) -> dict[str, Any]:
        knobs: dict[str, Any] = {}
        for argument, info in self._method.knobs.model_fields.items():
            knob = info.alias or argument
            if knob in self._method.per_model:
                knobs[argument] = tuple(
                    self._value(knob, source, tensor, place, info.default)
                    for (source, _, _), tensor in zip(self._inputs, names, strict=True)
                )
            else:
                knobs[argument] = self._value(knob, None, name, place, info.default)
        return knobs

    def _value(
        self, knob: str, source: Source | None, tensor: str, place: float, default: Any
    ) -> Scalar | None:
        levels = [self._part.parameters, self._spec.parameters]
        if source is not None:
            levels.insert(0, source.parameters)
        value = value_for(knob, levels, tensor, place, default)
        return value if value is None else self._method.validate(knob, value)


def _outer_names(donor: Ingredient, models: Iterable[Ingredient], tied: bool) -> list[str]:
    """Return the tensors outside layers, in the donor's order; a tied output head is not written."""
    names = donor.outer
    for model in models:
        if missing := sorted(set(model.outer) - set(names)):
            raise _lacks(donor, missing[0], "models")
    return names if tied or not any(name in EMBEDDINGS for name in names) else [*names, HEAD]


def _lacks(model: Ingredient, tensor: str, path: str) -> BadInput:
    return BadInput(
        f"{model.ref} lacks a tensor that another model of the merge has: {tensor}.",
        "All models of a merge have the same tensors.",
        "Choose models of one family and size.",
        field=path,
    )


def _check_shapes(name: str, parts: Sequence[Part], path: str, *, but_rows: bool = False) -> None:
    shapes = {part.model.ref: part.info.shape[but_rows:] for part in parts}
    if len(set(shapes.values())) > 1:
        raise BadInput(
            f"The tensor {name} has different shapes: {_listed(shapes)}.",
            "Models are merged tensor by tensor, so all have the same shapes.",
            "Choose models of one family and size.",
            field=path,
        )


def _is_copied(name: str, parts: Sequence[Part]) -> bool:
    floating = {part.info.dtype in FLOATS for part in parts}
    if floating == {True}:
        return False
    dtypes = {part.info.dtype for part in parts}
    if len(dtypes) > 1 or any(dtype.startswith("F8") for dtype in dtypes):
        raise BadInput(
            f"The tensor {name} is {', '.join(sorted(dtypes))}.",
            "Floating point numbers of 16 bits or more are merged; others are copied when all models agree.",
            "Use models with plain weights.",
            field="models",
        )
    return True


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def short_count(number: float) -> str:
    """Write a count for people: "134.5 million"."""
    return _short(number, ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")))


def _short(number: float, units: Sequence[tuple[float, str]]) -> str:
    """Write a number in the largest unit that it fills, in three or four digits."""
    for unit, word in units:
        if number >= unit:
            return f"{number / unit:.4g}{word}"
    return f"{number:g}"
