"""What can be refused before a search is queued. Reads headers, configs and the data's rows; no weight."""

from dataclasses import dataclass

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need
from lab.merge.check import check as check_merge
from lab.merge.siblings import LiveRecipe
from lab.score.check import OVERHEAD_BYTES
from lab.score.metric import metrics
from lab.score.tasks import LABELS, SHIPPED, place, read_documents, read_questions
from lab.search.spec import SearchSpec


@dataclass(frozen=True)
class SearchEstimate:
    """What a search will need.

    Attributes:
        items: rows that every candidate is scored on.
        memory_bytes: the siblings, the resident model and the work beside them.
    """

    items: int
    memory_bytes: int

    @property
    def need(self) -> Need:
        """What the job needs of a device."""
        return Need(self.memory_bytes, field="recipe")


def check(spec: SearchSpec, shelf: Shelf) -> SearchEstimate:
    """Check the siblings, the data and the memory, and that the search does not see what judges it.

    Raises:
        BadInput: names the field, what we saw, what we expected and what to do.
    """
    try:
        live = LiveRecipe.find(spec.recipe, shelf)
        if spec.name:
            check_merge(spec.recipe, shelf)
    except BadInput as error:
        raise error.at(f"recipe.{error.field}" if error.field else "recipe") from None
    items = _items(spec, shelf)
    _refuse_reference(spec, shelf)
    need, have = live.bytes_in(spec.dtype) + OVERHEAD_BYTES, shelf.memory_bytes()
    if need > have:
        raise BadInput(
            f"Searching needs about {need / 2**30:.1f} GiB: siblings and a merged model in {spec.dtype}.",
            f"This machine has {have / 2**30:.1f} GiB.",
            "Search with fewer or smaller models.",
            field="recipe",
        )
    return SearchEstimate(items, need)


def _items(spec: SearchSpec, shelf: Shelf) -> int:
    try:
        file = place(spec.data, shelf)
        is_choices = metrics[spec.metric].reads == "choices"
        return len(read_questions(file, spec.limit) if is_choices else read_documents(file, spec.limit))
    except BadInput as error:
        raise error.at("data") from None


def _refuse_reference(spec: SearchSpec, shelf: Shelf) -> None:
    """Refuse a set that Scores judges by, also under another name."""
    if spec.allow_reference:
        return
    data = place(spec.data, shelf).read_bytes()
    for ref in SHIPPED:
        if place(ref, shelf).read_bytes() == data:
            raise BadInput(
                f"The search would go by the {LABELS[ref]}, which Scores judges models by.",
                "A model that was chosen by a set looks better on that set than it is.",
                "Choose other data. If you won't judge the result by this set, allow it.",
                field="data",
            )
