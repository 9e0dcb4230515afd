"""The spec of a fine-tune: complete, with the defaults that TRAIN recommends written in.

The descriptions are the form's help. Opens no file and imports no training library.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.core.spec import DataRef, JobSpec, LabName, ModelRef
from lab.tune.registry import tune_methods


class TuneSpec(JobSpec):
    """One fine-tune of one model on one dataset."""

    kind: Literal["tune"] = "tune"
    model: Annotated[
        ModelRef, Field(description="The full model to start from. An adapter can't be tuned again.")
    ]
    dataset: Annotated[DataRef, Field(description="The conversations to learn from.")]
    name: Annotated[LabName, Field(description="The name of the adapter that comes out.")]
    full_model: Annotated[
        bool, Field(description="Also make a full model, which other tools read and which can be merged.")
    ] = False
    full_model_name: Annotated[
        LabName | None, Field(description="The full model's name; empty appends -full to the adapter's.")
    ] = None

    method: Annotated[
        str,
        Field(
            description="lora trains small matrices beside the frozen weights. qlora also keeps the frozen "
            "weights in 4 bits: less memory on large models, a little slower."
        ),
    ] = "lora"
    rank: Annotated[
        int,
        Field(ge=1, le=1024, description="Width of the trained matrices: 16 is plenty for style and facts."),
    ] = 16
    alpha: Annotated[
        float | None,
        Field(gt=0, le=8192, description="How loudly the adapter speaks. Empty keeps it at twice the rank."),
    ] = None
    dropout: Annotated[
        float,
        Field(
            ge=0, le=0.9, description="Share of the adapter's inputs dropped: 0.05 helps under 1,000 rows."
        ),
    ] = 0.0

    learning_rate: Annotated[
        float,
        Field(gt=0, lt=1, description="Size of a step. 0.0002 suits LoRA; ten times what full tuning likes."),
    ] = 2e-4
    scheduler: Annotated[
        Literal["cosine", "linear", "constant"],
        Field(description="How the learning rate falls after the warm-up; cosine ends gently."),
    ] = "cosine"
    warmup_ratio: Annotated[
        float, Field(ge=0, lt=1, description="Share of the steps that warm up (1 to 100 steps).")
    ] = 0.05
    epochs: Annotated[
        float | None,
        Field(
            gt=0,
            le=1000,
            description="Times through the data. Empty: 3 under 2,000 rows, 2 under 20,000, else 1.",
        ),
    ] = None
    max_steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Stop after so many steps, whatever the epochs say. 30 is a trial.",
        ),
    ] = None
    batch: Annotated[
        int, Field(ge=1, le=4096, description="Rows a step learns from together; 16 is steady.")
    ] = 16
    micro_batch: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description="Rows in memory at once; divides the batch. Empty lets the worker choose.",
        ),
    ] = None
    max_length: Annotated[
        int | None,
        Field(
            ge=8,
            le=1 << 20,
            description="Rows are cut after so many tokens. Empty: what 99 % of rows need, at most 2,048.",
        ),
    ] = None
    neftune_alpha: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="NEFTune: noise on the embeddings; 5 often gives livelier answers, 0 is off.",
        ),
    ] = 0.0
    weight_decay: Annotated[
        float, Field(ge=0, le=1, description="Pull of the weights towards zero; LoRA seldom needs any.")
    ] = 0.0
    grad_clip: Annotated[
        float, Field(ge=0, le=1000, description="Longest gradient a step may follow; 0 clips nothing.")
    ] = 1.0
    held_out: Annotated[
        int | None,
        Field(
            ge=0,
            le=10_000,
            description="Rows kept for evaluation. Empty: 5 %, from 16 to 200, at most a fifth; 0 is none.",
        ),
    ] = None
    evaluations: Annotated[
        int, Field(ge=0, le=100, description="Evaluations in each epoch; there is always one at the end.")
    ] = 4
    checkpoint_steps: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="Steps between checkpoints. Empty: about once a minute."),
    ] = None
    devices: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Devices that train together, each with its share of the frozen weights and of the "
            "batch. Every one is held from start to end; the job waits until so many are free at once.",
        ),
    ] = 1
    seed: Annotated[
        int, Field(ge=0, lt=1 << 32, description="The same seed, data and versions give the same adapter.")
    ] = 42

    @field_validator("learning_rate")
    @classmethod
    def _learning_rate_is_small(cls, rate: float) -> float:
        if rate > 0.1:
            raise ValueError(f"A learning rate of {rate:g} destroys the model; try 0.0002 (at most 0.1).")
        return rate

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, method: str) -> str:
        return tune_methods[method].name  # UnknownName is a ValueError and lists the known

    @model_validator(mode="after")
    def _numbers_fit_together(self) -> Self:
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"A batch of {self.batch} rows can't be cut into micro-batches of {self.micro_batch}. "
                f"Choose a micro-batch that divides {self.batch}."
            )
        if self.batch % (self.devices * (self.micro_batch or 1)):
            each = f" with micro-batches of {self.micro_batch}" if self.micro_batch else ""
            raise ValueError(
                f"A batch of {self.batch} rows can't be shared out among {self.devices} devices{each}. "
                f"Choose a batch that {self.devices * (self.micro_batch or 1)} divides."
            )
        if self.devices > 1 and self.method == "qlora":
            raise ValueError(
                "QLoRA packs the frozen weights into 4 bits on one device and can't share them out. "
                "Choose lora for several devices, or one device for qlora."
            )
        if self.full_model and self.full_name == self.name:
            raise ValueError(f"The adapter and the full model can't both be named {self.name!r}.")
        return self

    @property
    def full_name(self) -> str:
        """The name of the full model, where one is made."""
        return self.full_model_name or f"{self.name[:59]}-full"

    @property
    def lora_alpha(self) -> float:
        """Alpha, which follows the rank until somebody sets it."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    @property
    def title(self) -> str:
        """The job in words."""
        return f"{self.method} of {self.model} on {self.dataset}"

    def models_used(self) -> tuple[str, ...]:
        """Return the base model."""
        return (self.model,)

    def datasets_used(self) -> tuple[str, ...]:
        """Return the dataset."""
        return (self.dataset,)

    def models_made(self) -> tuple[str, ...]:
        """Return the adapter's name and, where asked for, the full model's."""
        return (self.name, self.full_name) if self.full_model else (self.name,)
