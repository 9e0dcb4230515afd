"""One mixture of experts made from dense models, complete: what mergekit-moe's YAML can say.

Opens no file. A recipe is one of these where it has `experts`.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from lab.core.errors import BadInput, UnknownName
from lab.core.plain_yaml import read_yaml
from lab.core.spec import JobSpec, LabName, ModelRef, Spec
from lab.merge.spec import MOST_SEED, Dtype

MOST_EXPERTS = 64

GateMode = Literal["hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random"]
Layout = Literal["mixtral", "qwen2_moe", "qwen3_moe"]
FREE_MODES = ("random", "uniform_random")
"""Gate modes that need no prompts."""

UNTRAINED = "i_understand_this_is_not_useful_without_training"
"""mergekit-moe's flag; as a key of a recipe it is ours."""

_LAYOUTS = {"mixtral": "mixtral", "qwen3": "qwen3_moe", "qwen": "qwen2_moe"}

Prompts = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=100_000)], ...], Field(max_length=1000)
]


class Expert(Spec):
    """A model whose MLPs become one expert of every layer.

    Attributes:
        source_model: the model.
        positive_prompts: what is to be routed to it.
        negative_prompts: what is not.
        noise_scale: the deviation of normal noise that is added to its weights; 0 adds none.
        residual_scale: what its down projections are multiplied by.
    """

    source_model: ModelRef
    positive_prompts: Prompts = ()
    negative_prompts: Prompts = ()
    noise_scale: Annotated[float, Field(ge=0, le=10)] = 0.0
    residual_scale: Annotated[float, Field(ge=-100, le=100)] = 1.0

    @property
    def prompts(self) -> tuple[Prompts, Prompts]:
        """What routes to it and what does not."""
        return self.positive_prompts, self.negative_prompts


class ExpertsSpec(JobSpec):
    """A mixture of experts: one model's attention, embeddings and norms, and several models' MLPs.

    Attributes:
        name: the result's name in the lab.
        base_model: whose attention, embeddings, norms and tokenizer are kept.
        experts: in the order of the router's rows.
        shared_experts: of a Qwen2-MoE the one that every token passes.
        experts_per_token: how many of the experts a token passes.
        gate_mode: where the router's rows come from: the hidden states of the prompts' last tokens
            ("hidden", "hidden_last") or their mean ("hidden_avg"), the prompts' embeddings
            ("cheap_embed"), or chance.
        architecture: the result's layout; None lets the models say.
        dtype: of the result; None keeps the base's.
        seed: of noise and of random routers.
        i_understand_this_is_not_useful_without_training: whether experts may be all the same.
    """

    kind: Literal["moe"] = "moe"
    name: LabName
    base_model: ModelRef
    experts: Annotated[tuple[Expert, ...], Field(min_length=1, max_length=MOST_EXPERTS)]
    shared_experts: Annotated[tuple[Expert, ...], Field(max_length=1)] = ()
    experts_per_token: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] = 2
    gate_mode: GateMode = "hidden"
    architecture: Layout | None = None
    dtype: Dtype | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    i_understand_this_is_not_useful_without_training: bool = False

    @model_validator(mode="after")
    def _experts_can_be_told_apart(self) -> Self:
        if len(self.experts) < self.experts_per_token:
            raise BadInput(
                f"There are {len(self.experts)} experts, and a token passes {self.experts_per_token}.",
                "experts_per_token is at most the number of experts.",
                "Give more experts, or a smaller experts_per_token.",
            )
        if self.gate_mode not in FREE_MODES:
            self._check_prompts()
        if self.i_understand_this_is_not_useful_without_training or len(self.experts) == 1:
            return self
        if len({expert.source_model for expert in self.experts}) == 1:
            raise BadInput(
                f"All experts are {self.experts[0].source_model}.",
                "Such a model is larger and answers the same.",
                f"Choose other models; to train it first, set {UNTRAINED}: true.",
            )
        return self

    def _check_prompts(self) -> None:
        for place, expert in enumerate((*self.experts, *self.shared_experts)):
            if not expert.positive_prompts:
                raise BadInput(
                    f"Expert {place + 1} ({expert.source_model}) has no positive_prompts.",
                    f"With gate_mode {self.gate_mode} the prompts say what is routed to an expert.",
                    "Give each expert a prompt or more, or take gate_mode: random.",
                )
        prompts = {expert.prompts for expert in self.experts}
        if (
            len(prompts) == 1 < len(self.experts)
            and not self.i_understand_this_is_not_useful_without_training
        ):
            raise BadInput(
                "The prompts of all experts are the same.",
                "A router that can't tell its experts apart is of no use.",
                f"Write prompts of each expert's own; to train it first, set {UNTRAINED}: true.",
            )

    @property
    def title(self) -> str:
        """The job in words, for lists."""
        names = list(dict.fromkeys(expert.source_model for expert in self.experts))
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        return f"mixture of {len(self.experts)} experts from {listed}"

    def models_used(self) -> tuple[str, ...]:
        """Return the base and the experts' models, in order, each once."""
        every = (*self.experts, *self.shared_experts)
        return tuple(dict.fromkeys([self.base_model, *(expert.source_model for expert in every)]))

    def models_made(self) -> tuple[str, ...]:
        """Return the result's name."""
        return (self.name,)


def is_experts(text: str) -> bool:
    """Whether a recipe is one of a mixture of experts."""
    try:
        recipe = read_yaml(text)
    except ValueError:
        return False
    return isinstance(recipe, dict) and "experts" in recipe


def read_experts(
    text: str, *, name: str, untrained: bool = False, tell: Callable[[str], None] = lambda _: None
) -> ExpertsSpec:
    """Read a recipe in mergekit-moe's YAML.

    Args:
        text: the YAML, up to 256 KiB.
        name: the result's name; the language has none.
        untrained: whether experts may be all the same, as the command line says it.
        tell: is told what was left out.

    Raises:
        BadInput: the text is no such recipe.
        ValidationError: a value doesn't fit.
    """
    try:
        recipe = read_yaml(text)
    except ValueError as error:
        raise _no_recipe(f"The recipe can't be read: {error}.") from None
    if not isinstance(recipe, dict):
        raise _no_recipe("The recipe is no table of keys and values.")
    known = set(ExpertsSpec.model_fields) - {"kind", "name"}
    if unknown := sorted(set(map(str, recipe)) - known):
        raise UnknownName.among("key", unknown[0], sorted(known)).at(unknown[0])
    fields = {key: value for key, value in recipe.items() if value is not None}
    if "architecture" in fields:
        fields["architecture"] = _layout(fields["architecture"])
    for key in ("experts", "shared_experts"):
        if isinstance(fields.get(key), list):
            fields[key] = [_plain(expert) for expert in fields[key]]
    if untrained:
        fields[UNTRAINED] = True
    spec = ExpertsSpec.model_validate(fields | {"name": name})
    if len(spec.experts) & (len(spec.experts) - 1):
        tell(f"{len(spec.experts)} experts are no power of two: llama.cpp does not run such a model.")
    return spec


def write_experts(spec: ExpertsSpec) -> str:
    """Write a mixture as mergekit-moe's YAML, without what is the default. The name is left out."""
    recipe = spec.model_dump(mode="json", exclude_defaults=True, exclude={"name", "kind"})
    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100))


def _no_recipe(what: str) -> BadInput:
    return BadInput(
        what,
        "A mixture has base_model and experts, as mergekit-moe has it.",
        "Mend the text.",
        field="recipe",
    )


def _plain(expert: Any) -> Any:
    """Drop the keys that are empty, which mergekit takes for missing."""
    return (
        {key: value for key, value in expert.items() if value is not None}
        if isinstance(expert, dict)
        else expert
    )


def _layout(value: object) -> str:
    """Return the layout that mergekit's name for it begins with: "Mixtral", "Qwen MoE", "Qwen3 MoE"."""
    wanted = str(value).lower()
    for begin, layout in _LAYOUTS.items():
        if wanted.startswith(begin):
            return layout
    raise BadInput(
        f"The architecture is {str(value)[:40]!r}.",
        "Known: mixtral, qwen (Qwen2-MoE), qwen3.",
        "Choose one, or leave it out.",
        field="architecture",
    )
