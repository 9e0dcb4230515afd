"""The spec of a search: a merge, which of its numbers may move and how far, and the score to go by.

Opens no file. What depends on models and data is checked in `check.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.core.errors import BadInput, UnknownName
from lab.core.spec import DataRef, JobSpec, LabName, ModelRef, Spec
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.spec import MergeSpec
from lab.score.metric import metrics
from lab.score.tasks import SHIPPED

MOST_VARIABLES = 64
Sampler = Literal["cmaes", "tpe"]


class Range(Spec):
    """One number of the recipe that may move, or several along the layers.

    Attributes:
        knob: the parameter's name in the recipe, such as "weight" or "density".
        model: whose it is; None where it is one for all models.
        low, high: the least and the greatest value.
        points: how many values; more than one are a gradient from the first layer to the last.
    """

    knob: Annotated[str, Field(min_length=1, max_length=64)]
    model: ModelRef | None = None
    low: float
    high: float
    points: Annotated[int, Field(ge=1, le=16)] = 1

    @model_validator(mode="after")
    def _goes_up(self) -> Self:
        if self.low >= self.high:
            raise BadInput(
                f"{self.name} goes from {self.low:g} to {self.high:g}.",
                "A range has a least value and a greater one.",
                "Swap them, or leave the number out.",
            )
        return self

    @property
    def name(self) -> str:
        """The number in words: "weight of pirate"."""
        return self.knob if self.model is None else f"{self.knob} of {self.model}"

    @property
    def variables(self) -> tuple[str, ...]:
        """One name for each value: the number's own, or with its place along the layers."""
        if self.points == 1:
            return (self.name,)
        return tuple(f"{self.name} [{point}]" for point in range(1, self.points + 1))


class SearchSpec(JobSpec):
    """One search, complete. Merging happens in memory; what is found is a recipe.

    Attributes:
        recipe: the merge to start from.
        vary: the numbers that may move.
        data: what candidates are scored on.
        metric: the score's name.
        sampler: how candidates are proposed: CMA-ES, or the tree-structured Parzen estimator.
    """

    kind: Literal["search"] = "search"
    recipe: MergeSpec
    vary: Annotated[tuple[Range, ...], Field(min_length=1, max_length=MOST_VARIABLES)]
    data: Annotated[DataRef, Field(description="What candidates are scored on; not what you judge by")]
    metric: Annotated[str, Field(description="The score to go by")] = "bits_per_byte"
    trials: Annotated[int, Field(ge=1, le=2000, description="Candidates to try at most")] = 40
    patience: Annotated[
        int, Field(ge=0, le=2000, description="End after so many trials without a better one; 0 never")
    ] = 20
    sampler: Annotated[
        Sampler, Field(description="cmaes for a few numbers that play together, tpe for many or for steps")
    ] = "cmaes"
    limit: Annotated[int | None, Field(ge=1, le=1_000_000, description="Use only the first so many rows")] = (
        None
    )
    context_tokens: Annotated[int, Field(ge=16, le=131_072, description="Tokens seen at once")] = 2048
    dtype: Annotated[
        Literal["float32", "bfloat16"], Field(description="Precision to compute the score in")
    ] = "float32"
    seed: Annotated[int, Field(ge=0, lt=2**31, description="Seed of the proposals")] = 0
    allow_reference: Annotated[
        bool,
        Field(description="Allow the sets that Scores judges by: the winner then looks better than it is"),
    ] = False
    name: Annotated[
        LabName | None, Field(description="Merge the best under this name at the end; none only finds it")
    ] = None

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return metrics[metric].name

    @field_validator("vary")
    @classmethod
    def _numbers_differ(cls, vary: tuple[Range, ...]) -> tuple[Range, ...]:
        names = [one.name for one in vary]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Each number moves once; given twice: {', '.join(twice)}.")
        if sum(one.points for one in vary) > MOST_VARIABLES:
            raise ValueError(f"A search moves {MOST_VARIABLES} numbers at most.")
        return vary

    @model_validator(mode="after")
    def _the_recipe_has_these_numbers(self) -> Self:
        for place, one in enumerate(self.vary):
            try:
                _check_range(one, self.recipe)
            except BadInput as error:
                raise BadInput(f"vary.{place}: {error.saw}", error.expected, error.do) from None
        for end in ("low", "high"):
            applied(
                self.recipe,
                self.vary,
                {name: getattr(one, end) for one in self.vary for name in one.variables},
            )
        return self

    @property
    def title(self) -> str:
        """The search in words, for lists."""
        return f"search for the best {self.recipe.title}"

    def models_used(self) -> tuple[str, ...]:
        """Return the models of the merge."""
        return self.recipe.models_used()

    def datasets_used(self) -> tuple[str, ...]:
        """Return the dataset that is read; a set that ships is none."""
        return () if self.data in SHIPPED else (self.data,)

    def models_made(self) -> tuple[str, ...]:
        """Return the best merge's name, where it is made at the end."""
        return (self.name,) if self.name else ()


def applied(recipe: MergeSpec, vary: tuple[Range, ...], values: Mapping[str, float]) -> MergeSpec:
    """Return a recipe with its moving numbers set.

    Args:
        recipe: where they go.
        vary: what moves.
        values: by the names of `Range.variables`.

    Raises:
        ValidationError: a value doesn't fit the method.
    """
    changed = recipe.model_dump()
    for one in vary:
        numbers = [values[name] for name in one.variables]
        setting: Any = numbers[0] if one.points == 1 else tuple(numbers)
        for place in _places(one, changed):
            place[one.knob] = setting
    return MergeSpec.model_validate(changed)


def start_of(recipe: MergeSpec, vary: tuple[Range, ...]) -> dict[str, float]:
    """Return where the recipe itself stands, within the ranges; the middle where it says nothing."""
    values = {}
    for one in vary:
        stands = _stands(one, recipe)
        for name in one.variables:
            middle = (one.low + one.high) / 2
            value = middle if stands is None else stands
            values[name] = min(max(value, one.low), one.high)
    return values


def is_whole(one: Range, recipe: MergeSpec) -> bool:
    """Whether a number is counted in whole steps."""
    return merge_methods[recipe.method].parameters[one.knob].annotation is int


def _check_range(one: Range, recipe: MergeSpec) -> None:
    method = merge_methods[recipe.method]
    numeric = numbers_of(method)
    if one.knob not in numeric:
        raise UnknownName.among(f"number of {method.name}", one.knob, numeric)
    names = [source.model for part in recipe.parts() for source in part.sources]
    if one.model is not None and not method.is_per_model(one.knob):
        raise BadInput(f"{one.knob} is one for all models.", "", "Leave the model out.")
    if one.model is not None and one.model not in names:
        raise UnknownName.among("model of the merge", one.model, names)
    own = [source.model for source in recipe.models if one.knob in source.parameters]
    if one.model is None and own:
        raise BadInput(
            f"{', '.join(own)} set {one.knob} for themselves.",
            "What a model sets for itself comes first, so moving the shared one changes nothing.",
            f"Move {one.knob} of each model.",
        )


def numbers_of(method: MergeMethod) -> list[str]:
    """Return the names of a method's parameters that are numbers, whole ones included."""
    return [name for name, info in method.parameters.items() if info.annotation in (int, float)]


def _places(one: Range, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    if one.model is None:
        return [recipe["parameters"]]
    return [source["parameters"] for source in recipe["models"] if source["model"] == one.model]


def _stands(one: Range, recipe: MergeSpec) -> float | None:
    settings = [source.parameters for source in recipe.models if source.model == one.model]
    settings.append(recipe.parameters)
    found = next((place[one.knob] for place in settings if one.knob in place), None)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
