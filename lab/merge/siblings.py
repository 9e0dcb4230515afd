"""A recipe that is merged in memory instead of on disk, with its plan: what it needs, and whether it can.

Reads headers and configs only; `live.py` does the merging.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.spec import spec_sha256
from lab.merge.check import prepare
from lab.merge.plan import MergePlan, Part
from lab.merge.spec import MergeSpec
from lab.models.headers import TensorInfo

ANY_NAME = "live"


@dataclass(frozen=True)
class LiveRecipe:
    """A merge of whole siblings: models of one shape, so that one resident model can become any such merge.

    Attributes:
        spec: the recipe; its name is the column's.
        plan: every tensor of the result.
    """

    spec: MergeSpec
    plan: MergePlan

    @classmethod
    def find(cls, spec: MergeSpec, shelf: Shelf) -> Self:
        """Read the siblings' headers and work out the plan.

        Raises:
            BadInput: the models are no siblings, or the recipe stacks layers; says why.
        """
        for field, does in _TOO_MUCH.items():
            if getattr(spec, field) not in (None, (), "model"):
                raise _refusal(does, field)
        plan = prepare(spec, shelf)
        if plan.method.calibration:
            raise _refusal("looks at its models before it merges them", "method")
        first = plan.method.statistics
        if first and any(first.rounds_for(tensor.knobs) for tensor in plan.tensors):
            raise _refusal("compares whole layers or models before it merges", "method")
        return cls(spec, plan)

    @property
    def name(self) -> str:
        """The name of what it makes."""
        return self.spec.name

    @cached_property
    def sha256(self) -> str:
        """Names the recipe whatever its result is called: equal recipes make equal weights."""
        return spec_sha256(self.spec.model_copy(update={"name": ANY_NAME}))

    def bytes_in(self, dtype: str) -> int:
        """Return what it takes in memory: the siblings as they are stored, and one resident model.

        Args:
            dtype: that of the resident model, in torch's words.
        """
        return self.held_bytes + self.plan.parameters * (4 if dtype == "float32" else 2)

    @cached_property
    def held_bytes(self) -> int:
        """What the siblings' own tensors take; one that an adapter shares with its base counts once."""
        return sum(info.size_bytes for info in self.tensors.values())

    @cached_property
    def tensors(self) -> dict[Hashable, TensorInfo]:
        """Every stored tensor that the merge reads, each once."""
        return {(info.file, info.start): info for info in self._infos()}

    def key(self, device: str, dtype: str) -> Hashable:
        """Name exactly these siblings on a device: their files by place, size and time of change."""
        files = sorted({info.file for info in self.tensors.values()})
        stamps = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
        return ("live", device, dtype, str(self.plan.donor.folder), tuple(stamps))

    def _infos(self) -> Iterator[TensorInfo]:
        for tensor in self.plan.tensors:
            for part in (*tensor.inputs, *([tensor.base] if tensor.base else [])):
                yield from _stored(part)


_TOO_MUCH = {
    "slices": "puts layers together from slices",
    "intermediates": "has merges on the way",
    "tokenizer": "makes a vocabulary of its own",
    "chat_template": "brings a chat template",
    "result": "makes an adapter",
}
"""What a live merge cannot be, by the field that asks for it."""


def _refusal(does: str, field: str) -> BadInput:
    return BadInput(
        f"This recipe {does}.",
        "A live merge takes whole models tensor by tensor, because the result has the models' own shape.",
        "Merge it on the Merge page.",
        field=field,
    )


def _stored(part: Part) -> Iterator[TensorInfo]:
    yield part.info
    if fold := part.model.folds.get(part.tensor):
        yield from (fold.down, fold.up)
