"""What a merge method is, and the registry that finds them.

A method is one pure function of the stacked values of one tensor. Its keyword-only arguments are its
knobs: the form, the check of a spec and the documentation are derived from them. This module knows
nothing of files; a method sees tensors and numbers only.
"""

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo

from lab.core.registry import Registry
from lab.core.spec import Spec
from lab.merge.draws import Draws
from lab.merge.statistics import DATA, READS_TEXT, Calibrated, Calibration, FirstPass
from lab.models.lazytorch import Tensor, torch

Found = TypeVar("Found")

Space = Literal["delta", "weight"]
"""What a method is given: tuned minus base ("delta"), or the models' values as they are ("weight")."""

Role = Literal["none", "first", "delta", "optional"]
"""What a base is to a method: nothing, the first of its models, what the deltas are taken from, or that
where the recipe names one; else the method is given the models' values."""

KNOWN: Final = "known"
"""The argument in which a method is given what was found out first: no knob."""

PER_MODEL: Final = "per model"

PerModel = Annotated[float | Sequence[float], PER_MODEL]
"""A knob that each model may set for itself: one number for all, or one for each model in order."""


class Stack(Protocol):
    """The values of one tensor in all models, a chunk at a time, as often as asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor in one model."""
        ...

    @property
    def models(self) -> int:
        """How many models there are."""
        ...

    def chunks(self, multiple: int = 1) -> Iterator[Tensor]:
        """Start a new pass. Each chunk is (models, elements), float32, and yours only until the next.

        It lies in a buffer that is used again, so it may be overwritten in place.

        Args:
            multiple: the elements of a chunk are a multiple of this: of a row's length, for methods
                that need rows whole. The tensor's own size has to be one.
        """
        ...

    def sample(self, count: int) -> Tensor:
        """Return about so many elements from all over the tensor, the same of each model.

        Shape (models, any), float32.
        """
        ...

    def recall(self, what: Hashable, find: Callable[[], Found]) -> Found:
        """Return what `find` finds out about these values, or found before where they are merged often.

        Args:
            what: names it, with every number that it depends on besides the values.
            find: finds it; what it returns is not to be changed.
        """
        ...


Streamed = Callable[..., Iterator[Tensor]]
"""A method in chunks: `streamed(stack, weights, **knobs)` yields a merged chunk for each of its last pass."""


@dataclass(frozen=True)
class MergeMethod:
    """One merge method and all that forms, checks and the engine have to know of it.

    Attributes:
        name: its name, as mergekit spells it where mergekit has it.
        source: where it was published.
        space: whether it is given deltas or weights.
        models: the least and the most models it takes, the base not counted where deltas are taken from it.
        use: one sentence: when to use it.
        function: the function itself, of whole tensors.
        knobs: its knobs as a pydantic model, with defaults, bounds and help.
        per_model: those knobs that each model may set for itself.
        weighted: whether the models have weights.
        base: what a base is to it.
        elementwise: whether each element of the result depends on the same element of the models only.
        shows_faults: whether any NaN or infinity among the models' elements makes the result's NaN or
            infinite: then looking at the result is enough.
        nanoseconds: what an element of one model takes on one core, for the estimate; measured.
        is_random: whether it takes `draws`, its random numbers.
        statistics: what it has to know of many tensors first; the function is given it as `known`.
        calibration: what has to be found of its models first; the function is given it as `known` too.
        streamed: its form in chunks; the registry fills it in.
    """

    name: str
    source: str
    space: Space
    models: tuple[int, int]
    use: str
    function: Callable[..., Tensor]
    knobs: type[Spec]
    per_model: frozenset[str]
    weighted: bool = True
    base: Role = "none"
    elementwise: bool = False
    shows_faults: bool = False
    nanoseconds: float = 20.0
    is_random: bool = False
    statistics: FirstPass | None = None
    calibration: Calibration | None = None
    streamed: list[Streamed] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, FieldInfo]:
        """All that a recipe may set, by name: knobs, and where they count `weight`, `data` and `samples`."""
        weight = {"weight": _Weighted.model_fields["weight"]} if self.weighted else {}
        text = Calibrated.model_fields if self.reads_text else {}
        knobs = {info.alias or name: info for name, info in self.knobs.model_fields.items()}
        return {**weight, **text, **knobs}

    @property
    def reads_text(self) -> bool:
        """Whether its models read a text first."""
        return self.calibration in READS_TEXT

    def is_per_model(self, parameter: str) -> bool:
        """Whether each model may set this parameter for itself."""
        return parameter in ("weight", DATA) or parameter in self.per_model

    def validate(self, parameter: str, value: object) -> bool | int | float | str:
        """Check one value of one parameter and return it as its type.

        Raises:
            ValidationError: it is not of the type, or out of bounds.
        """
        return self._adapters[parameter].validate_python(value)

    @cached_property
    def _adapters(self) -> dict[str, TypeAdapter[Any]]:
        kinds: dict[str, Any] = {
            name: Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            for name, info in self.parameters.items()
        }
        return {name: TypeAdapter(kind, config={"allow_inf_nan": False}) for name, kind in kinds.items()}

    def arguments(self, knobs: Mapping[str, Any], draws: Draws) -> dict[str, Any]:
        """Return what the function is called with by name: the knobs, and its random numbers."""
        return {**knobs, "draws": draws} if self.is_random else dict(knobs)

    def stream(
        self, stack: Stack, weights: Tensor, knobs: Mapping[str, Any], draws: Draws
    ) -> Iterator[Tensor]:
        """Merge one tensor, yielding the result in the stack's chunks.

        While a chunk is yielded, the stack stands at the chunk of the same place. A method without a
        form in chunks is given the whole tensor, and needs the memory for it.

        Args:
            stack: the models' values, or deltas.
            weights: each model's say. Shape (models,).
            knobs: by the function's argument names; per-model knobs as one number for each model.
            draws: the tensor's random numbers, for methods that take them.
        """
        knobs = self.arguments(knobs, draws)
        if self.elementwise:
            return (self.function(chunk, weights, **knobs) for chunk in stack.chunks())
        if self.streamed:
            return self.streamed[0](stack, weights, **knobs)
        return self._whole(stack, weights, knobs)

    def _whole(self, stack: Stack, weights: Tensor, knobs: Mapping[str, Any]) -> Iterator[Tensor]:
        pieces = torch.cat([chunk.clone() for chunk in stack.chunks()], dim=1)  # (models, elements)
        merged = self.function(pieces.view(-1, *stack.shape), weights, **knobs).flatten()
        del pieces
        start = 0
        for chunk in stack.chunks():
            stop = start + chunk.shape[1]
            yield merged[start:stop]
            start = stop


class MergeMethods(Registry[MergeMethod]):
    """The merge methods, by name; filled by the modules of `lab/merge/methods`."""

    def register(
        self,
        name: str,
        *,
        source: str,
        space: Space = "delta",
        models: tuple[int, int] = (1, 8),
        **traits: Any,  # of MergeMethod: use, weighted, base, elementwise, nanoseconds and so on
    ) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
        """Register the function below as a merge method, and return it unchanged.

        Args:
            name: the method's name in recipes and forms.
            source: the paper or project it is from, such as "arXiv:2306.01708".
            space: "delta" to be given tuned minus base, "weight" to be given the models' values.
            models: the least and the most models it takes.
            traits: `use` (when to use it, if the docstring's first line doesn't say), `weighted`, `base`,
                `elementwise`, `shows_faults`, `nanoseconds`, `statistics`, `calibration`: see `MergeMethod`.
        """

        def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            knobs, per_model = knobs_of(function)
            facts = {
                "use": (inspect.getdoc(function) or "").split("\n", 1)[0],
                "base": "delta" if space == "delta" else "none",
                "is_random": "draws" in inspect.signature(function).parameters,
                **traits,
            }
            method = MergeMethod(
                name=name,
                source=source,
                space=space,
                models=models,
                function=function,
                knobs=knobs,
                per_model=per_model,
                **facts,
            )
            self.add(name, method)
            return function

        return register

    def streamed(self, name: str) -> Callable[[Streamed], Streamed]:
        """Give a registered method its form in chunks: `streamed(stack, weights, **knobs)`."""

        def register(streamed: Streamed) -> Streamed:
            self._things[name].streamed.append(streamed)
            return streamed

        return register


def knobs_of(function: Callable[..., Tensor]) -> tuple[type[Spec], frozenset[str]]:
    """Read a function's knobs from its keyword-only arguments.

    A trailing underscore is not part of a knob's name, so `lambda_` is the knob `lambda`. `draws`, the
    random numbers, is no knob.

    Returns:
        A pydantic model with one field for each knob, and the names of the per-model ones.

    Raises:
        TypeError: a knob has no type, or no default.
    """
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    per_model = set()
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY or argument.name in ("draws", KNOWN):
            continue
        if argument.name not in hints or argument.default is inspect.Parameter.empty:
            raise TypeError(f"The knob {argument.name!r} of {function.__name__} needs a type and a default.")
        kind, *metadata = _parts(hints[argument.name])
        name = argument.name.rstrip("_")
        if PER_MODEL in metadata:
            per_model.add(name)
            kind = float
        extras = tuple(item for item in metadata if item != PER_MODEL)
        annotation: Any = Annotated[kind, *extras] if extras else kind
        knob = FieldInfo.from_annotated_attribute(annotation, argument.default)
        if name != argument.name:
            knob.alias = knob.validation_alias = knob.serialization_alias = name
        fields[argument.name] = (knob.annotation, knob)
    title = f"{function.__name__.title().replace('_', '')}Knobs"
    return create_model(title, __base__=_Knobs, **fields), frozenset(per_model)


class _Knobs(Spec):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class _Weighted(Spec):
    weight: float = Field(description="The model's say in the merge; negative takes its direction away.")


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def for_each(value: float | Sequence[float], count: int) -> list[float]:
    """Spread a per-model knob: one number for all models, or one for each.

    Raises:
        ValueError: there are not as many numbers as models.
    """
    numbers = [float(value)] * count if isinstance(value, int | float) else [float(item) for item in value]
    if len(numbers) != count:
        raise ValueError(f"{count} models but {len(numbers)} values")
    return numbers


merge_methods: Final = MergeMethods("merge method", package="lab.merge.methods")
"""All merge methods. Importing this imports none of them: the first lookup does."""
