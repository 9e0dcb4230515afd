"""What can be refused before a comparison is queued: models that are gone, broken or too large."""

from dataclasses import dataclass

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need
from lab.merge.siblings import LiveRecipe
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
    have = shelf.memory_bytes()
    sizes = [_size_of(ref, spec, shelf) for ref in spec.models]
    for ref, need in zip(spec.models, sizes, strict=True):
        if need > have:
            raise BadInput(
                f"{ref} takes {need / 1e9:.1f} GB of memory; this machine has {have / 1e9:.1f} GB.",
                "A model must fit into memory to answer.",
                "Choose a smaller model.",
                field="models",
            )
    return CompareEstimate(min(max(sizes) + OVERHEAD_BYTES, have))


def _size_of(ref: str, spec: CompareSpec, shelf: Shelf) -> int:
    """Return the bytes that one column's weights take; of a live merge with those of its siblings.

    Raises:
        BadInput: the model can't be used, or the recipe's models are no siblings.
    """
    recipe = spec.recipe(ref)
    if recipe is not None:
        try:
            return LiveRecipe.find(recipe, shelf).bytes_in("bfloat16")
        except BadInput as error:
            path = f"recipes.{spec.recipes.index(recipe)}"
            raise error.at(f"{path}.{error.field}" if error.field else path) from None
    try:
        source = Source.find(ref, shelf)
        source.check()
    except BadInput as error:
        raise error.at("models") from None
    return source.bytes_in("bfloat16")
