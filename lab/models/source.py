"""Where a model's weights lie: its own folder and, for an adapter, its base's. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.models.config import is_adapter, read_adapter_config
from lab.models.headers import ITEM_BYTES, read_headers
from lab.models.inspection import ModelFacts, check_adapter_fits, check_model_folder


@dataclass(frozen=True)
class Source:
    """The folders of a model.

    Attributes:
        name: as it was asked for.
        folder: the model's or adapter's.
        base: the base's folder; None for a full model.
    """

    name: str
    folder: Path
    base: Path | None = None

    @classmethod
    def find(cls, ref: str, shelf: Shelf) -> "Source":
        """Find a model on a shelf, and an adapter's base by the name that the adapter gives.

        Raises:
            NotFound: there is no such model, or no such base.
            BadInput: the base is an adapter itself.
        """
        folder = shelf.model(ref)
        if not is_adapter(folder):
            return cls(ref, folder)
        base = shelf.model(read_adapter_config(folder).base)
        if is_adapter(base):
            raise BadInput(f"The base of {ref} is an adapter itself.", "An adapter stands on a full model.")
        return cls(ref, folder, base)

    @property
    def full(self) -> Path:
        """The folder with config and full weights: the base's for an adapter."""
        return self.base or self.folder

    def check(self) -> ModelFacts:
        """Check all folders, and that an adapter fits; return the facts of the full model.

        Raises:
            BadInput: one can't be used; names file, tensor and reason.
        """
        facts = check_model_folder(self.folder)
        if self.base is None:
            return facts
        facts = check_model_folder(self.base)
        check_adapter_fits(self.folder, self.base)
        return facts

    def bytes_in(self, dtype: str) -> int:
        """Return what the weights take in memory.

        Args:
            dtype: in torch's words: "float32", "bfloat16" or "float16".
        """
        width = 4 if dtype == "float32" else 2
        return sum(
            tensor.elements * (width if ITEM_BYTES[tensor.dtype] > 1 else 1)
            for tensor in read_headers(self.full).values()
        )
