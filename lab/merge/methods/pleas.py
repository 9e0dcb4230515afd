"""PLeaS at ratio 0: hidden units are put in one order first, then averaged. Experimental."""

from lab.merge.agreement import divisor, weighted_sum
from lab.merge.registry import merge_methods
from lab.merge.statistics import Known
from lab.models.lazytorch import Tensor, torch


@merge_methods.register(
    "pleas",
    source="PLeaS, arXiv:2407.02447, at ratio 0, units matched by weights, without its least squares",
    space="weight",
    nanoseconds=15.0,
    calibration="units",
    use="Experimental: when models grew apart, and their hidden units may stand in another order.",
)
def pleas(
    models: Tensor,
    weights: Tensor,
    *,
    known: Known | None = None,
) -> Tensor:
    """Average after alignment: sum_i w_i P_i(x_i) / sum_i w_i.

    P_i puts the units of model i in the order of the first model's that they resemble most, by the inner
    products of all weights that belong to a unit. Units of the feed-forward block are permuted one by
    one, heads that share a key and value as a whole. The residual stream stays as it is, so models of
    other origin than one base are not brought together by this.

    Args:
        models: one row for each model. Shape (models, *weight), float32.
        weights: each model's say. Shape (models,).
        known: `rows.1` or `columns.1` and so on: the order of that model's rows or columns; without it
            nothing is permuted.

    Returns:
        The merged values. Shape (*weight).

    Raises:
        ValueError: the weights sum to zero.
    """
    says = weights.tolist()
    total = divisor(says)
    aligned = torch.stack([_ordered(model, place, known or {}) for place, model in enumerate(models)])
    return weighted_sum(aligned, [say / total for say in says])


def _ordered(model: Tensor, place: int, known: Known) -> Tensor:
    for axis, name in enumerate(("rows", "columns")):
        order = known.get(f"{name}.{place}")
        if order is not None:
            model = model.index_select(axis, order)
    return model
