"""What one comparison asks: a prompt, the conversation before it, and how to sample. Opens no file.

A column may be a recipe instead of a model: a merge that is made in memory when it is asked.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.core.spec import JobSpec, ModelRef, Spec
from lab.merge.spec import MergeSpec
from lab.models.sampling import Sampling

MOST_COLUMNS = 4

Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class Turn(Spec):
    """One earlier exchange: what was asked, and what each model answered, in the order of the models."""

    prompt: Text
    answers: tuple[Annotated[str, Field(max_length=100_000)], ...]


class CompareSpec(JobSpec, Sampling):
    """One prompt to up to four models, each going on with its own earlier answers.

    Attributes:
        models: one to four different models; a column each.
        recipes: merges that are made in memory; the column with a recipe's name is that merge.
        prompt: what to answer now.
        earlier: the conversation so far; every turn has one answer for each model.
        system: instructions before the conversation; "" for none.
    """

    kind: Literal["compare"] = "compare"
    models: Annotated[tuple[ModelRef, ...], Field(min_length=1, description="Models to ask")]
    recipes: Annotated[tuple[MergeSpec, ...], Field(max_length=4)] = ()
    prompt: Text
    earlier: Annotated[tuple[Turn, ...], Field(max_length=100)] = ()
    system: Annotated[str, Field(max_length=100_000, description="Instructions before everything")] = ""

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("The prompt is blank. Write what the models shall answer.")
        return prompt

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(models) > MOST_COLUMNS:
            raise ValueError(
                f"These are {len(models)} columns, a live merge included. A comparison has at most "
                f"{MOST_COLUMNS}. Leave a model out."
            )
        twice = sorted({name for name in models if models.count(name) > 1})
        if twice:
            raise ValueError(
                f"A model may have one column; chosen more than once: {', '.join(twice)}. "
                "With a shared seed both columns would say the same."
            )
        return models

    @model_validator(mode="after")
    def _every_recipe_has_a_column(self) -> Self:
        names = [recipe.name for recipe in self.recipes]
        if len(set(names)) < len(names) or not set(names) <= set(self.models):
            raise ValueError(
                f"The recipes are called {', '.join(names)}. Each has its own name, among the models."
            )
        return self

    @model_validator(mode="after")
    def _every_turn_has_every_answer(self) -> Self:
        for number, turn in enumerate(self.earlier):
            if len(turn.answers) != len(self.models):
                raise ValueError(
                    f"Turn {number + 1} has {len(turn.answers)} answers for {len(self.models)} models. "
                    "Start a new conversation after changing the models."
                )
        return self

    @property
    def title(self) -> str:
        """The job in words, for lists."""
        words = " ".join(self.prompt.split())
        return f"ask {', '.join(self.models)}: {words[:60]}{'…' if len(words) > 60 else ''}"

    @property
    def sampling(self) -> Sampling:
        """How the next token is chosen, without the rest."""
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})

    def recipe(self, model: str) -> MergeSpec | None:
        """Return the recipe of a column, or nothing where a model of the lab answers."""
        return next((recipe for recipe in self.recipes if recipe.name == model), None)

    def models_used(self) -> tuple[str, ...]:
        """Return the models that are asked, and those that the recipes are made of."""
        asked = [model for model in self.models if self.recipe(model) is None]
        merged = [model for recipe in self.recipes for model in recipe.models_used()]
        return tuple(dict.fromkeys([*asked, *merged]))

    def messages(self, column: int) -> list[dict[str, str]]:
        """Return the conversation as one column sees it: its own earlier answers, then the prompt.

        Args:
            column: index of the model in `models`.
        """
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.earlier:
            said += [
                {"role": "user", "content": turn.prompt},
                {"role": "assistant", "content": turn.answers[column]},
            ]
        return [*said, {"role": "user", "content": self.prompt}]
