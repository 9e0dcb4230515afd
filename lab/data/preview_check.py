"""What is checked before a preview is queued: that the model and the dataset are there."""

from lab.core.job import Shelf
from lab.data.spec import PreviewSpec


def check(spec: PreviewSpec, shelf: Shelf) -> None:
    """Check that what the spec names exists.

    Raises:
        NotFound: the model or the dataset is gone.
    """
    shelf.model(spec.model)
    shelf.dataset(spec.dataset)
