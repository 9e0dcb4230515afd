"""From the merge form, or a finished merge, to a look into weights; and back to the job that took it."""

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from lab.core.errors import BadInput, LabError
from lab.core.spec import JobSpec, spec_sha256
from lab.core.store import Store
from lab.core.store.rows import JobRow, ModelRow
from lab.merge.inspect.spec import MOST_MODELS, InspectSpec
from lab.ui.mergeform import Filled

_LOOKED_THROUGH = 50


def wanted(filled: Filled, rows: Iterable[ModelRow], *, exact: bool = False) -> InspectSpec:
    """Return the look that the form's models call for: each against the base, or against the first.

    A recipe in the box counts, as it does for the merge; the other faults of a form don't matter here.

    Raises:
        BadInput: there is no model besides the reference.
    """
    base, models = _models_of(filled)
    reference = base or next(iter(models), "")
    others = [name for name in dict.fromkeys(models) if name != reference][:MOST_MODELS]
    if not others:
        raise BadInput(
            "There is one model to look at.", "Weights are compared with another model's.", "Choose a second."
        )
    return looked(reference, others, rows, exact=exact)


def looked(
    base: str, models: Sequence[str], rows: Iterable[ModelRow], *, after: bool = False, exact: bool = False
) -> InspectSpec:
    """Return the spec of a look at these models as they are in the catalog now."""
    stamps = {row.name: row.manifest_sha256 for row in rows}
    return InspectSpec(
        base=base,
        models=tuple(models),
        purpose="after" if after else "before",
        exact=exact,
        manifests=tuple(stamps.get(name, "") for name in (base, *models)),
    )


def found(store: Store, spec: JobSpec, owner: str, *, failed: bool = False) -> JobRow | None:
    """Return this person's newest job of the same spec that was not cancelled.

    Args:
        store: lists the jobs.
        spec: what it does.
        owner: the person.
        failed: whether one that failed counts.
    """
    sha256, dead = spec_sha256(spec), ("cancelled", "cancelling") + (() if failed else ("failed",))
    jobs = store.jobs.list(owner=owner, kinds=[spec.kind], limit=_LOOKED_THROUGH)
    return next((job for job in jobs if job.spec_sha256 == sha256 and job.state not in dead), None)


def best_found(store: Store, spec: InspectSpec, owner: str, *, failed: bool = False) -> JobRow | None:
    """Return the job that has looked at these models, one that read every weight before one that sampled."""
    exact = found(store, spec.model_copy(update={"exact": True}), owner)
    if exact is not None and exact.state == "succeeded":
        return exact
    return found(store, spec.model_copy(update={"exact": False}), owner, failed=failed) or exact


def is_stacked(row: ModelRow, made_by: JobRow | None) -> bool:
    """Whether a merge took ranges of layers: its layers are not those of the same number in its parents."""
    return row.kind == "upscaled" or bool(made_by and made_by.spec.get("slices"))


def parents_in_order(row: ModelRow, made_by: JobRow | None) -> list[str]:
    """Return a merge's parents as the form had them, so that they keep their letters; the base comes last.

    A base that was one of the models stays where it was.
    """
    spec = made_by.spec if made_by else {}
    listed = [one.get("model") for one in spec.get("models") or ()]
    named = [name for name in listed if name in row.parents]
    return list(dict.fromkeys([*named, *row.parents[1:], *row.parents]))


def _models_of(filled: Filled) -> tuple[str | None, list[str]]:
    """Return base and models of the form, or of the recipe that stands in for it."""
    if not filled.recipe.strip():
        return filled.base, [model for model, _ in filled.inputs]
    try:
        spec = filled.spec()
    except (ValidationError, LabError) as error:
        raise BadInput(
            "The recipe can't be read yet.", "Its models are looked at.", "Mend it first."
        ) from error
    return spec.base_model, list(spec.models_used())
