"""The spec of a look into models' weights: which models, against which reference."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lab.core.spec import JobSpec, ModelRef

MOST_MODELS = 8


class InspectSpec(JobSpec):
    """Hold one to eight models against a reference, tensor by tensor. Opens no file.

    Attributes:
        base: the reference: what the models were tuned from, or a merge whose parents the models are.
        models: what is held against it.
        purpose: "before" a merge the models are looked at; "after" it the reference is the result.
        exact: whether to read every weight; else a sample of each tensor.
        manifests: sha256 of the manifests of reference and models, in that order, so that a model that
            was made anew under its old name is looked at again. The figures don't depend on it.
    """

    kind: Literal["inspect"] = "inspect"
    base: ModelRef
    models: Annotated[tuple[ModelRef, ...], Field(min_length=1, max_length=MOST_MODELS)]
    purpose: Literal["before", "after"] = "before"
    exact: Annotated[bool, Field(description="Read every weight, not a sample of each tensor")] = False
    manifests: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=MOST_MODELS + 1)
    ] = ()

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        names = [self.base, *self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Each model is named once; repeated: {', '.join(twice)}.")
        return self

    @property
    def title(self) -> str:
        """The job in words."""
        names = ", ".join(self.models[:3]) + (", ..." if len(self.models) > 3 else "")
        if self.purpose == "after":
            return f"what {self.base} changed against {names}"
        return f"weights of {names} against {self.base}"

    def models_used(self) -> tuple[str, ...]:
        """Return the reference and the models."""
        return (self.base, *self.models)
