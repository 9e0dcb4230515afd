"""One merge, complete: what a recipe in mergekit's YAML can say, for the methods that we have.

Knows the registry of methods; opens no file. What depends on the models is checked in `check.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from lab.core.errors import BadInput, UnknownName, problems_of
from lab.core.spec import JobSpec, LabName, ModelRef, Spec
from lab.merge.parameters import Setting, mapped
from lab.merge.reference import parse
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.statistics import DATA
from lab.merge.tokens import TokenizerSetting

MOST_SLICES = 512
MOST_RANK = 4096
MOST_SOURCES = 9
"""Eight models and the base."""

MOST_SEED = (1 << 32) - 1
MOST_TEMPLATE = 100_000
MOST_STEPS = 31

Dtype = Literal["float32", "bfloat16", "float16"]
Layer = Annotated[int, Field(ge=0, lt=100_000)]
Parameters = Annotated[dict[str, Setting], Field(max_length=64)]


class Source(Spec):
    """One model of a merge, or some layers of one: `layer_range` is [first, end), the end not included."""

    model: ModelRef
    layer_range: tuple[Layer, Layer] | None = None
    parameters: Parameters = Field(default_factory=dict)

    @field_validator("layer_range")
    @classmethod
    def _range_goes_forward(cls, layers: tuple[int, int] | None) -> tuple[int, int] | None:
        if layers and layers[0] >= layers[1]:
            raise BadInput(
                f"The layer range {layers[0]} to {layers[1]} holds no layer.",
                "A range is [first, end), counted from 0, the end not included.",
                "Make the end larger than the first.",
            )
        return layers


class Slice(Spec):
    """Some output layers: the same number of layers from each of its sources."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=MOST_SOURCES)]
    base_model: ModelRef | None = None
    parameters: Parameters = Field(default_factory=dict)

    @field_validator("sources")
    @classmethod
    def _every_source_has_the_same_length(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        lengths = set()
        for place, source in enumerate(sources):
            if source.layer_range is None:
                raise ValueError(
                    f"sources.{place}.layer_range is missing. A slice names its layers: [first, end)."
                )
            lengths.add(source.layer_range[1] - source.layer_range[0])
        if len(lengths) > 1:
            raise ValueError(
                f"The sources have {', '.join(map(str, sorted(lengths)))} layers. "
                "All sources of a slice have the same number of layers."
            )
        return sources

    @property
    def layers(self) -> int:
        """How many output layers the slice makes."""
        first, end = self.sources[0].layer_range or (0, 0)
        return end - first


class MergeSpec(JobSpec):
    """One merge. It has `models`, merged layer by layer, or `slices`, stacked one on the other.

    Attributes:
        name: the merged model's name in the lab.
        method: a registered merge method.
        base_model: what deltas are taken from; slerp's first model; else whose config and tokenizer are kept.
        models: whole models, in order.
        slices: ranges of layers, in order.
        parameters: settings for all models and tensors; a slice's and a model's own come first.
        dtype: the dtype of the result, as mergekit spells it; arithmetic is float32 whatever it says.
        out_dtype: the same, and comes before `dtype`.
        seed: of the random numbers of methods that draw; the same seed repeats the merge to the bit.
        result: a full model, or an adapter where all models are LoRA adapters of one base.
        rank: of an adapter that comes out; None keeps a weighted sum whole, else the largest rank given.
        tokenizer: the result's vocabulary; None keeps the base's, or else the first model's, row by row.
        chat_template: "auto", a known name or the template itself; None keeps the tokenizer's.
        intermediates: merges to make first, in order, which later ones name like models.
        keep_intermediates: whether they are listed too, as NAME-STEP.
    """

    kind: Literal["merge"] = "merge"
    name: LabName
    method: str
    base_model: ModelRef | None = None
    models: Annotated[tuple[Source, ...], Field(max_length=MOST_SOURCES)] = ()
    slices: Annotated[tuple[Slice, ...], Field(max_length=MOST_SLICES)] = ()
    parameters: Parameters = Field(default_factory=dict)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    seed: Annotated[
        int,
        Field(ge=0, le=MOST_SEED, description="Another number draws other changes; the same repeats exactly"),
    ] = 0
    result: Literal["model", "adapter"] = "model"
    rank: Annotated[int, Field(ge=1, le=MOST_RANK)] | None = None
    tokenizer: TokenizerSetting | None = None
    chat_template: Annotated[str, Field(min_length=1, max_length=MOST_TEMPLATE)] | None = None
    intermediates: Annotated[tuple["MergeSpec", ...], Field(max_length=MOST_STEPS)] = ()
    keep_intermediates: bool = False

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, method: str) -> str:
        return merge_methods[method].name

    @field_validator("models")
    @classmethod
    def _model_settings_fit(cls, models: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        for place, model in enumerate(models):
            if model.layer_range is not None:
                raise ValueError(f"{place}.layer_range: models are whole. Use slices to pick layers.")
        return _checked_sources(info, models, "")

    @field_validator("slices")
    @classmethod
    def _slice_settings_fit(cls, slices: tuple[Slice, ...], info: ValidationInfo) -> tuple[Slice, ...]:
        return tuple(
            part.model_copy(
                update={
                    "sources": _checked_sources(info, part.sources, f"{place}.sources."),
                    "parameters": _checked(info, part.parameters, f"{place}.parameters.", shared=True),
                }
            )
            for place, part in enumerate(slices)
        )

    @field_validator("parameters")
    @classmethod
    def _settings_fit(cls, parameters: dict[str, Setting], info: ValidationInfo) -> dict[str, Setting]:
        """Check the settings, and write the defaults in, so that a stored spec repeats exactly."""
        checked = _checked(info, parameters, "", shared=True)
        if "method" not in info.data:
            return checked
        known = merge_methods[info.data["method"]].parameters
        return {name: info.default for name, info in known.items() if not info.is_required()} | checked

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.models_made())) <= len(self.intermediates) * self.keep_intermediates:
            raise ValueError("Two of the models that are made would have the same name. Shorten the names.")
        return self

    @model_validator(mode="after")
    def _models_fit_the_method(self) -> Self:
        if bool(self.models) == bool(self.slices):
            raise ValueError("A merge has models or slices, one of the two. Give at least one model.")
        method = merge_methods[self.method]
        if self.models:
            _count(method, self.models, self.base_model, "models")
        if method.calibration and self.slices:
            raise BadInput(f"{method.name} has slices.", "It takes models whole.", "List models instead.")
        if method.reads_text:
            self._every_model_has_a_text()
        for place, part in enumerate(self.slices):
            _count(method, part.sources, part.base_model or self.base_model, f"slices.{place}.sources")
        return self

    @field_validator("intermediates")
    @classmethod
    def _steps_are_steps(cls, steps: tuple["MergeSpec", ...]) -> tuple["MergeSpec", ...]:
        names = [step.name for step in steps]
        for place, step in enumerate(steps):
            if step.intermediates:
                raise ValueError(f"{place}.intermediates: a step has none of its own. List them all here.")
            if step.result == "adapter":
                raise ValueError(f"{place}.result: a step makes a full model, which the next ones take.")
            if step.name in names[:place]:
                raise ValueError(f"{place}.name: two steps are called {step.name}. Name them apart.")
            late = set(step.models_used()) & set(names[place:])
            if late:
                raise ValueError(f"{place}: {step.name} needs {min(late)}, which is not made before it.")
        return steps

    def _every_model_has_a_text(self) -> None:
        for field in ("intermediates", "tokenizer"):
            if getattr(self, field):
                raise BadInput(
                    f"{self.method} has {field}.",
                    "Its models read texts whole and as they are.",
                    "List models that are in the lab, with one vocabulary.",
                    field=field,
                )
        for place, source in enumerate(self.models):
            if not isinstance(source.parameters.get(DATA, self.parameters.get(DATA)), str):
                raise BadInput(
                    f"{DATA} is missing: {source.model} has no text to read.",
                    f"{self.method} learns from what each model makes of a text, best that of its training.",
                    "Choose a dataset.",
                    field=f"models.{place}.parameters.{DATA}",
                )

    @property
    def title(self) -> str:
        """The merge in words: "ties merge of pirate and sums"."""
        names = list(dict.fromkeys(source.model for part in self.parts() for source in part.sources))
        if self.is_upscaling:
            return f"{names[0]}, its layers stacked to {sum(part.layers for part in self.slices)}"
        if self.method == "patch" and len(names) > 1:
            return f"what {names[0]} learned on {names[1]}, carried over to {self.base_model}"
        *first, last = [name for name in names if name != self.base_model] or names
        listed = f"{', '.join(first)} and {last}" if first else last
        return f"{self.method} merge of {listed}"

    @property
    def is_upscaling(self) -> bool:
        """Whether it only stacks layers of one model."""
        used = {source.model for part in self.slices for source in part.sources}
        return self.method == "passthrough" and len(used) == 1

    def parts(self) -> tuple[Slice, ...]:
        """Return the slices; whole models are one slice, without layer ranges."""
        return self.slices or (Slice.model_construct(sources=self.models, base_model=None, parameters={}),)

    def references(self) -> tuple[str, ...]:
        """Return the base and the models as the recipe spells them, in order, each once."""
        bases = [self.base_model, *(part.base_model for part in self.slices)]
        sources = [source.model for part in self.parts() for source in part.sources]
        return tuple(dict.fromkeys([*(base for base in bases if base), *sources]))

    def models_used(self) -> tuple[str, ...]:
        """Return the models of the lab that it takes, base first, each once."""
        steps = {step.name for step in self.intermediates}
        names = [name for step in self.intermediates for name in step.models_used()]
        named = self.tokenizer.models() if self.tokenizer else ()
        for reference in (*self.references(), *named):
            names += parse(reference).names
        return tuple(dict.fromkeys(name for name in names if name not in steps))

    def datasets_used(self) -> tuple[str, ...]:
        """Return the datasets that the models read first, where a method asks for that."""
        named = [source.parameters.get(DATA, self.parameters.get(DATA)) for source in self.models]
        named += [data for step in self.intermediates for data in step.datasets_used()]
        return tuple(dict.fromkeys(data for data in named if isinstance(data, str)))

    def models_made(self) -> tuple[str, ...]:
        """Return the merged model's name, after those of the steps that are kept."""
        kept = self.intermediates if self.keep_intermediates else ()
        return (*(self.name_of(step) for step in kept), self.name)

    def alone(self, place: int) -> "MergeSpec":
        """Return one step as a merge of its own, with the steps that it needs."""
        step = self.intermediates[place]
        needed: list[MergeSpec] = []
        names = set(step.models_used())
        for earlier in reversed(self.intermediates[:place]):
            if earlier.name in names:
                needed.insert(0, earlier)
                names |= set(earlier.models_used())
        return step.model_copy(update={"intermediates": tuple(needed)})

    def name_of(self, step: "MergeSpec") -> str:
        """Return the name under which a step is listed when it is kept."""
        return f"{self.name}-{step.name}"[:64]

    def with_seed(self, seed: int) -> Self:
        """Return the same merge, its steps included, with another seed.

        Raises:
            ValidationError: the seed is out of bounds.
        """
        steps = [step.model_dump() | {"seed": seed} for step in self.intermediates]
        return self.model_validate(self.model_dump() | {"seed": seed, "intermediates": steps})

    def as_adapter(self, rank: int | None) -> Self:
        """Return the same merge with an adapter as its result.

        Args:
            rank: the adapter's; None lets the method say.

        Raises:
            ValidationError: the rank is out of bounds.
        """
        return self.model_validate(self.model_dump() | {"result": "adapter", "rank": rank})


class More(TypedDict, total=False):
    """What else a form may say of a merge's result."""

    dtype: Dtype | None
    tokenizer: str | None
    seed: int


def merge_of(
    method: str,
    models: Sequence[tuple[str, float]],
    *,
    name: str,
    base: str | None = None,
    knobs: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    **more: Unpack[More],
) -> MergeSpec:
    """Build the merge that a form describes.

    Args:
        method: a merge method's name.
        models: names and weights, in order; the weights are left out where the method has none.
        name: the result's name.
        base: the base model; where the method only needs one to start from, the first model.
        knobs: the method's knobs, for all models and tensors.
        data: the dataset that each model reads first, for methods that learn from texts.
        more: the result's dtype, where it is not the models'; whose vocabulary it has, as
            `TokenizerSetting` has it; the seed of methods that draw.

    Raises:
        ValidationError: something doesn't fit; `problems_of` says which fields.
    """
    chosen = merge_methods[method]
    texts = {model: {DATA: name} for model, name in (data or {}).items()}
    sources = [
        {"model": model, "parameters": ({"weight": weight} if chosen.weighted else {}) | texts.get(model, {})}
        for model, weight in models
    ]
    if chosen.base == "first" and base is None and models:
        base = models[0][0]
    return MergeSpec.model_validate(
        {
            "name": name,
            "method": method,
            "base_model": None if chosen.base == "none" else base,
            "models": sources,
            "parameters": dict(knobs or {}),
            "dtype": more.get("dtype"),
            "tokenizer": {"source": more["tokenizer"]} if more.get("tokenizer") else None,
            "seed": more.get("seed", 0),
        }
    )


def upscaled(model: str, layers: int, drop: int, *, name: str) -> MergeSpec:
    """Build SOLAR's depth up-scaling: layers 0 to n-m, then m to n again, 2(n-m) in all.

    Args:
        model: the model to stack.
        layers: n, how many layers it has.
        drop: m, how many layers each copy loses: the last m of the first, the first m of the second.
        name: the result's name.

    Raises:
        BadInput: m is not between 0 and n-1.
    """
    if not 0 <= drop < layers:
        raise BadInput(
            f"m is {drop}, and {model} has {layers} layers.",
            f"m is between 0 and {layers - 1}.",
            f"SOLAR drops a quarter of the layers: {layers // 4} here.",
            field="m",
        )
    ranges = [(0, layers - drop), (drop, layers)]
    slices = [{"sources": [{"model": model, "layer_range": layer_range}]} for layer_range in ranges]
    return MergeSpec.model_validate({"name": name, "method": "passthrough", "slices": slices})


def _checked_sources(info: ValidationInfo, sources: tuple[Source, ...], path: str) -> tuple[Source, ...]:
    return tuple(
        source.model_copy(
            update={
                "parameters": _checked(info, source.parameters, f"{path}{place}.parameters.", shared=False)
            }
        )
        for place, source in enumerate(sources)
    )


def _checked(
    info: ValidationInfo, parameters: dict[str, Setting], path: str, *, shared: bool
) -> dict[str, Setting]:
    """Check settings against the method's parameters, and return them with every value as its type.

    Args:
        info: of the validation under way; where the method was refused, that is said once already.
        parameters: the settings.
        path: where they stand in the field under validation, up to the dot before the name.
        shared: whether settings for all models may stand here.
    """
    if "method" not in info.data:
        return parameters
    method = merge_methods[info.data["method"]]
    checked: dict[str, Setting] = {}
    for name, setting in parameters.items():
        if name not in method.parameters:
            unknown = UnknownName.among(f"parameter of {method.name}", name, method.parameters)
            raise ValueError(f"{path}{name}: {unknown}")
        if not shared and not method.is_per_model(name):
            raise ValueError(
                f"{path}{name}: {name} is one for all models. Move it to the recipe's own parameters."
            )
        try:
            checked[name] = mapped(setting, lambda value, name=name: method.validate(name, value))  # type: ignore[misc]
        except ValidationError as error:
            raise ValueError(f"{path}{name}: {problems_of(error)[0].message}") from None
    return checked


def _count(method: MergeMethod, sources: Sequence[Source], base: str | None, path: str) -> None:
    """Check how many models a slice has against what the method takes."""
    if method.base in ("delta", "first") and base is None:
        role = "take the deltas from" if method.base == "delta" else "start from"
        raise BadInput(
            f"base_model is missing; {method.name} needs a base to {role}.", do="Choose a base model."
        )
    models = [source.model for source in sources]
    takes_deltas = method.base == "delta" or (method.base == "optional" and base is not None)
    if takes_deltas:
        models = [model for model in models if model != base]
    elif method.base == "first" and base not in models:
        models = [str(base), *models]
    elif method.base == "none" and method.models[1] > 1 and base is not None and base not in models:
        raise BadInput(
            f"The base {base} is not among the models, and {method.name} has no base.",
            "It takes models" + (" with weights." if method.weighted else "."),
            f"List {base} among them, or leave the base out.",
        )
    least, most = method.models
    if not least <= len(models) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        besides = " besides the base" if takes_deltas else ""
        of_all = f", the base {base} among them" if method.base == "first" else besides
        do = " Choose one of the others as base, or leave one out." if method.base == "first" else ""
        raise ValueError(f"{path}: {len(models)} models{of_all}. {method.name} takes {wanted}{besides}.{do}")
