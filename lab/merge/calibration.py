"""The texts that a merge's models read first, for methods that learn from it: which, how many, how long.

Works on specs, headers and the first lines of datasets; loads no model and imports no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lab.core.errors import BadInput, NotFound
from lab.core.job import Shelf
from lab.core.need import Need
from lab.data.formats import Conversation
from lab.data.reading import lines_of
from lab.data.samples import sample_datasets
from lab.merge.plan import MergePlan
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec
from lab.merge.statistics import DATA

MAX_TOKENS = 512
"""Of a row; what is longer is cut."""

GROUP_BYTES = 1 << 30
"""Statistics that are gathered at a time; a larger model reads its text several times."""

TOKEN_BYTES = 4
TEMPLATE_TOKENS = 30
"""Of text a token, and what a chat template adds to a row, about."""

WEIGHTS_PER_SECOND = {"fisher": 5e9, "gram": 2.5e10}
"""Tokens a second times parameters on one CPU core in float32: there and back, or there alone. Measured."""

SOLVED_PER_SECOND = 2e10
"""Operations a second of the least squares problem in float64 on one core. Measured."""


@dataclass(frozen=True)
class Reading:
    """What one model reads.

    Attributes:
        model: its name.
        data: the dataset's name.
        file: its JSONL file.
        samples: how many rows at most.
    """

    model: str
    data: str
    file: Path
    samples: int

    def rows(self) -> Iterator[Conversation]:
        """Yield the rows.

        Raises:
            BadInput: the file can't be read.
        """
        good = (line.conversation for line in lines_of(self.file) if line.conversation is not None)
        return islice(good, self.samples)

    @property
    def tokens(self) -> int:
        """About how many tokens that is."""
        sizes = [sum(len(turn["content"].encode()) for turn in row) for row in self.rows()]
        return sum(min(MAX_TOKENS, size // TOKEN_BYTES + TEMPLATE_TOKENS) for size in sizes)


def readings_of(spec: MergeSpec, shelf: Shelf) -> tuple[Reading, ...]:
    """Return what each model reads, in the order of the models; nothing for methods that read nothing.

    Raises:
        BadInput: a dataset is missing, or has no good row.
    """
    if not merge_methods[spec.method].reads_text:
        return ()
    samples = int(_scalar(spec.parameters["samples"]))
    readings = []
    for place, source in enumerate(spec.models):
        data = str(_scalar(source.parameters.get(DATA, spec.parameters.get(DATA, ""))))
        field = f"models.{place}.parameters.{DATA}"
        reading = Reading(source.model, data, _file_of(data, shelf, field), samples)
        if next(reading.rows(), None) is None:
            raise BadInput(f"The dataset {data} has no good row.", "", "Choose another one.", field=field)
        readings.append(reading)
    return tuple(readings)


def with_reading(spec: MergeSpec, plan: MergePlan, shelf: Shelf) -> MergePlan:
    """Add to a plan what its models' reading takes: time, disk, memory, and a sentence that says so.

    Raises:
        BadInput: a dataset is missing, or has no good row.
    """
    readings, kind = readings_of(spec, shelf), plan.method.calibration
    if not readings or kind is None:
        return plan
    tokens = sum(reading.tokens for reading in readings)
    size = _statistics_bytes(plan)
    rounds = max(1, -(-size // len(readings) // GROUP_BYTES))
    seconds = tokens * plan.parameters * rounds / WEIGHTS_PER_SECOND[kind]
    seconds += _solve_seconds(plan) if kind == "gram" else 0.0
    texts = ", ".join(dict.fromkeys(f"{one.model} reads {one.data}" for one in readings))
    remark = f"First {texts}: about {tokens:,} tokens in all."
    memory = plan.parameters * (8 if kind == "fisher" else 4) + min(size // len(readings), GROUP_BYTES)
    return replace(
        plan,
        remarks=(*plan.remarks, remark),
        reading_seconds=seconds,
        work_bytes=size,
        need=Need(int(1.2 * memory), field="models"),
    )


def _statistics_bytes(plan: MergePlan) -> int:
    """Return the bytes of all models' statistics: a number for each weight, or a matrix for each input."""
    if plan.method.calibration == "fisher":
        return 4 * sum(tensor.elements * len(tensor.inputs) for tensor in plan.tensors)
    inputs = {
        (tensor.name.rsplit(".", 2)[0], tensor.shape[1]) for tensor in plan.tensors if len(tensor.shape) == 2
    }
    return 8 * sum(size * size for _, size in inputs) * len(plan.tensors[0].inputs)


def _solve_seconds(plan: MergePlan) -> float:
    matrices = [(tensor.shape, len(tensor.inputs)) for tensor in plan.tensors if len(tensor.shape) == 2]
    # Embeddings are among them though they are averaged; they are few.
    operations = sum(
        inputs * inputs * (inputs + 2 * models * outputs)
        for (outputs, inputs), models in ((shape[:2], models) for shape, models in matrices)
        if outputs < 16 * inputs
    )
    return operations / SOLVED_PER_SECOND


def _file_of(data: str, shelf: Shelf, field: str) -> Path:
    """Return a dataset's file; the samples that ship are found where there is no lab to ask."""
    samples: Mapping[str, Path] = {sample.name: sample.path for sample in sample_datasets()}
    try:
        return shelf.dataset(data)
    except NotFound as error:
        if data in samples:
            return samples[data]
        raise error.at(field) from None
    except BadInput as error:
        raise error.at(field) from None


def _scalar(setting: object) -> str | int | float:
    if not isinstance(setting, str | int | float):
        raise BadInput(
            "A dataset is one name for a model.", "", "Take gradients and filters out.", field="models"
        )
    return setting
