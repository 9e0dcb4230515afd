"""What can be refused before a comparison is queued: models that are gone, broken or too large."""

from dataclasses import dataclass

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need
from lab.models.source import Source

OVERHEAD_BYTES = 256 << 20
"""Keys, values and logits beside the weights."""


@dataclass(frozen=True)
class CompareEstimate:
    """What a comparison will need: its models are loaded one after the other.

    Attributes:
        memory_bytes: the largest model and the work beside it.
    """

    memory_bytes: int

    @property
    def need(self) -> Need:
        """What the job needs of a device."""
        return Need(self.memory_bytes, field="models")


def check(spec: CompareSpec, shelf: Shelf) -> CompareEstimate:
    """Check every model's files, and that each fits into memory; reads headers and configs only.

    Whether the prompt fits into a model's context needs its tokenizer: the job tells that at once.

    Raises:
        BadInput: a model can't be used; names it and says why.
    """
    largest = 0
    for ref in spec.models:
        try:
            source = Source.find(ref, shelf)
            source.check()
        except BadInput as error:
            raise error.at("models") from None
        need, have = source.bytes_in("bfloat16"), shelf.memory_bytes()
        if need > have:
            raise BadInput(
                f"{ref} takes {need / 1e9:.1f} GB of memory; this machine has {have / 1e9:.1f} GB.",
                "A model must fit into memory to answer.",
                "Choose a smaller model.",
                field="models",
            )
        largest = max(largest, need)
    return CompareEstimate(min(largest + OVERHEAD_BYTES, shelf.memory_bytes()))
