"""The small job that shows a dataset as the tokens a model will see."""

from typing import Annotated, Literal

from pydantic import Field

from lab.core.spec import DataRef, JobSpec, ModelRef


class PreviewSpec(JobSpec):
    """One look at a dataset through a model's chat template. Opens no file."""

    kind: Literal["preview"] = "preview"
    model: ModelRef
    dataset: DataRef
    rows: Annotated[int, Field(ge=1, le=50, description="So many rows are shown in full")] = 6
    max_length: Annotated[
        int | None,
        Field(ge=8, le=1 << 20, description="Rows are cut after so many tokens; empty cuts nothing"),
    ] = None

    @property
    def title(self) -> str:
        """The job in words."""
        return f"preview of {self.dataset} for {self.model}"

    def models_used(self) -> tuple[str, ...]:
        """Return the model whose tokenizer is used."""
        return (self.model,)

    def datasets_used(self) -> tuple[str, ...]:
        """Return the dataset shown."""
        return (self.dataset,)
