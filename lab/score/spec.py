"""The spec of a score job: which models, on what, in which precision."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.core.spec import DataRef, JobSpec, ModelRef
from lab.score.tasks import SHIPPED, SHIPPED_CHOICES, SHIPPED_TEXT

Dtype = Literal["float32", "bfloat16"]


class ScoreSpec(JobSpec):
    """Score one to eight models on the same questions and texts. The first model is the one to beat."""

    kind: Literal["score"] = "score"
    models: Annotated[
        tuple[ModelRef, ...],
        Field(min_length=1, max_length=8, description="Models to score; verdicts are against the first"),
    ]
    multiple_choice: Annotated[
        DataRef | None, Field(description="Multiple-choice file, for accuracy; none skips it")
    ] = SHIPPED_CHOICES
    text: Annotated[DataRef | None, Field(description="Text file, for bits per byte; none skips it")] = (
        SHIPPED_TEXT
    )
    dtype: Annotated[
        Dtype, Field(description="Precision to compute in; float32 gives the same figures on every machine")
    ] = "float32"
    limit: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Score only the first so many rows")
    ] = None
    context_tokens: Annotated[
        int, Field(ge=16, le=131_072, description="Tokens a model sees at once; at most its own context")
    ] = 2048
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of the intervals' resampling")] = 0

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in models if models.count(name) > 1})
        if twice:
            raise ValueError(f"Each model is scored once; repeated: {', '.join(twice)}.")
        return models

    @model_validator(mode="after")
    def _there_is_something_to_score_on(self) -> Self:
        if self.multiple_choice is None and self.text is None:
            raise ValueError(
                "There is nothing to score on: choose a multiple-choice file, a text file or both."
            )
        return self

    @property
    def title(self) -> str:
        """The job in words."""
        shown = ", ".join(self.models[:3])
        rest = f" and {len(self.models) - 3} more" if len(self.models) > 3 else ""
        return f"scores of {shown}{rest}"

    def models_used(self) -> tuple[str, ...]:
        """Return the models to score, in order."""
        return self.models

    def datasets_used(self) -> tuple[str, ...]:
        """Return the datasets of the lab that are read; the shipped sets are none."""
        refs = (self.multiple_choice, self.text)
        return tuple(dict.fromkeys(ref for ref in refs if ref is not None and ref not in SHIPPED))
