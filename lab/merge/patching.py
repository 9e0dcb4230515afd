"""Carrying a fine-tune over to another base: its three roles as a spec, and how far the bases are apart.

Imports no torch until it measures; what it measures is a sample.
"""

from dataclasses import dataclass

from lab.merge.plan import MergePlan
from lab.merge.spec import Dtype, MergeSpec

METHOD = "patch"

SAMPLED_TENSORS = 24
SAMPLED_ELEMENTS = 1 << 16
"""Of each of these tensors: enough for two digits, and read in a tenth of a second."""

RELATED = 0.5
"""Bases that differ by more of their size than this share no training: unrelated ones differ by 1.4."""


@dataclass(frozen=True)
class Apart:
    """How far three models are apart, as shares of the old base's length over the sample.

    Attributes:
        bases: |new - old| / |old|.
        change: |tuned - old| / |old|.
    """

    bases: float
    change: float

    @property
    def words(self) -> str:
        """The distances for people, with a warning where a patch can't be expected to fit."""
        told = (
            f"The two bases differ by {_share(self.bases)} of their size, "
            f"the fine-tune from its old base by {_share(self.change)}."
        )
        if self.change == 0:
            return f"{told} It has learned nothing that could be carried over."
        if self.bases > RELATED:
            return f"{told} These bases look unrelated: a patch fits a base that was trained further."
        return told


def patch_of(
    new: str, tuned: str, old: str, *, name: str, scale: float = 1.0, dtype: Dtype | None = None
) -> MergeSpec:
    """Build the merge new + scale * (tuned - old).

    Args:
        new: the base to carry the fine-tune over to.
        tuned: the fine-tune, a full model or an adapter.
        old: what it was tuned from.
        name: the result's name.
        scale: how much of what was learned is added.
        dtype: the result's dtype; None keeps the models'.

    Raises:
        ValidationError: something doesn't fit.
    """
    return MergeSpec.model_validate(
        {
            "name": name,
            "method": METHOD,
            "base_model": new,
            "models": [{"model": tuned}, {"model": old}],
            "parameters": {"scale": scale},
            "dtype": dtype,
        }
    )


def remarks_on(plan: MergePlan) -> tuple[str, ...]:
    """Return what to know of a patch before it is made; nothing for other methods."""
    if plan.method.name != METHOD:
        return ()
    apart = measure(plan)
    return (apart.words,) if apart else ()


def measure(plan: MergePlan) -> Apart | None:
    """Measure the distances on the beginnings of some tensors; None where the old base's are all zero."""
    import torch

    from lab.merge.reading import Reader, Values

    reader = Reader()
    matrices = [tensor for tensor in plan.tensors if not tensor.copied and tensor.elements]
    step = max(1, len(matrices) // SAMPLED_TENSORS)
    bases = change = size = 0.0
    for tensor in matrices[::step]:
        rows = torch.empty(3, min(SAMPLED_ELEMENTS, tensor.elements))
        for part, row in zip(tensor.inputs, rows, strict=True):
            Values(part, reader).read(0, row)
        new, tuned, old = rows
        size += old.square().sum().item()
        bases += (new - old).square().sum().item()
        change += (tuned - old).square().sum().item()
    return Apart((bases / size) ** 0.5, (change / size) ** 0.5) if size else None


def _share(number: float) -> str:
    return "nothing" if number == 0 else f"{100 * number:.2g} %" if number < 1 else f"{100 * number:.0f} %"
