"""What a merge method may want to know of many tensors before it merges one: figures, summed in a first pass.

Pure: tensors and numbers only. `gathering.py` takes them over a whole model's files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lab.core.spec import Spec
from lab.models.lazytorch import Tensor

if TYPE_CHECKING:
    from lab.merge.registry import Stack

Scope = Literal["tensor", "layer", "model"]
"""Which tensors are counted together: each alone, those of a layer, or all."""

Calibration = Literal["fisher", "gram", "units"]
"""What is found of the models first: how sensitive each weight is and what inputs each linear layer is fed,
for which they read a text, or which of their hidden units belong together."""

READS_TEXT = ("fisher", "gram")

DATA = "data"

Known = Mapping[str, Tensor]
"""What a first pass found out, by names that the method itself chose."""

Knobs = Mapping[str, Any]


class Calibrated(Spec):
    """What a recipe may set for a method whose models read a text first."""

    data: Annotated[str, Field(description="The dataset that a model reads: best what it was trained on")]
    samples: Annotated[
        int, Field(ge=1, le=4096, description="So many rows of it, the first ones, are read by each model")
    ] = 64


@dataclass(frozen=True)
class FirstPass:
    """How a method's figures are taken.

    Each round reads every tensor once. The figures of a group's tensors are summed, and the sum settles
    what the next round, and at the end the method, is given as `known`. A tensor that stands alone needs
    none of it from outside: a method takes its figures itself, with `known_of`.

    Attributes:
        scope: which tensors go together, by the method's knobs.
        rounds: how many rounds there are.
        read: `read(stack, knobs, known, round)` goes over one tensor and returns its figures: int64 or
            float64, of the same shape for every tensor.
        settle: `settle(total, knobs, known, round)` turns their sum into what is known from then on.
        nanoseconds: what an element of one model takes on one core in a round, for the estimate.
    """

    scope: Callable[[Knobs], Scope]
    rounds: int
    read: Callable[["Stack", Knobs, Known, int], Tensor]
    settle: Callable[[Tensor, Knobs, Known, int], Known]
    nanoseconds: float = 5.0

    def rounds_for(self, knobs: Knobs) -> int:
        """Return how many rounds over many tensors these knobs ask for."""
        return 0 if self.scope(knobs) == "tensor" else self.rounds


def known_of(first: FirstPass, stack: "Stack", knobs: Knobs) -> Known:
    """Take the figures of one tensor that stands alone."""
    known: Known = {}
    for number in range(first.rounds):
        known = first.settle(first.read(stack, knobs, known, number), knobs, known, number)
    return known
