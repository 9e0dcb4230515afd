"""PCB-Merging: parameters compete by size within a model and by agreement between models; few win."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from lab.merge.quantiles import FineCounts, coarse_counts, find, number_at
from lab.merge.registry import Stack, merge_methods
from lab.merge.statistics import FirstPass, Knobs, Known, Scope, known_of
from lab.models.lazytorch import Tensor, torch

Ends = list[tuple[float, float]]
"""For each model two numbers: the least and the greatest, or the threshold and the greatest."""


def _scope(knobs: Knobs) -> Scope:
    return "model" if knobs["scope"] == "model" else "tensor"


def _read(stack: Stack, knobs: Knobs, known: Known, number: int) -> Tensor:  # noqa: ARG001  a `FirstPass.read`
    """Count magnitudes (rounds 0 and 1) or balances (2 and 3), coarsely and then in the bins found."""

    def values() -> Iterator[Tensor]:
        for rows in stack.chunks():
            yield rows.abs() if number < 2 else balances(rows, _pairs(known["ends"]))[0]

    return _coarse(values()) if number % 2 == 0 else _fine(values(), known["bins"])


def _settle(total: Tensor, knobs: Knobs, known: Known, number: int) -> Known:
    """Turn counts into bins, and counts within bins into numbers."""
    if number % 2 == 0:
        ranks = _end_ranks if number == 0 else _mark_ranks
        places = [[find(counts, rank) for rank in ranks(int(counts.sum()), knobs)] for counts in total]
        found = torch.tensor(places)  # (models, 2, 2): bin and rank within it, of both numbers
        return {**known, "bins": found[..., 0].contiguous(), "ranks": found[..., 1].contiguous()}
    numbers = [
        [number_at(place, find(counts, rank)[0]) for place, counts, rank in zip(*both, strict=True)]
        for both in zip(known["bins"].tolist(), total, known["ranks"].tolist(), strict=True)
    ]
    kept = {name: value for name, value in known.items() if name == "ends"}
    return {**kept, "ends" if number == 1 else "marks": torch.tensor(numbers, dtype=torch.float64)}


COMPETITION = FirstPass(scope=_scope, rounds=4, read=_read, settle=_settle, nanoseconds=25.0)


@merge_methods.register(
    "pcb",
    source="PCB-Merging, arXiv:2410.02396 (NeurIPS 2024); balancing as its repository's pcb_ES.py",
    nanoseconds=60.0,
    statistics=COMPETITION,
    use="When several fine-tunes compete for the same weights: only the most important changes stay.",
)
def pcb(
    deltas: Tensor,
    weights: Tensor,
    *,
    ratio: Annotated[
        float,
        Field(gt=0, le=1, description="Share of each model's changes that stay: 0.05 to 0.2 in the paper"),
    ] = 0.1,
    clamp: Annotated[
        float,
        Field(ge=0, lt=0.5, description="Share of magnitudes at either end that are cut to the next one"),
    ] = 1e-4,
    scope: Annotated[  # noqa: ARG001  the first pass goes by it
        Literal["model", "tensor"],
        Field(description="Where changes compete: in the whole model, as in the paper, or in each tensor"),
    ] = "model",
    known: Known | None = None,
) -> Tensor:
    """Balance, drop and rescale: sum_i w_i b_i t_i / sum_i b_i, where t_i are the clamped deltas.

    |t_i| is |d_i| cut to its clamp and 1 - clamp quantiles; Z_i = sign(d_i) * N_i, where N_i is |t_i|
    stretched to [0, 1]. Balance: exp(n N_i^2) * sum_j tanh(Z_i Z_j), n the number of models, j = i
    included. b_i is the balance with what is below its 1 - ratio quantile raised to it, then stretched
    to [0, 1]: what was below counts as zero. Everything is over the scope, for each model by itself.
    The paper scales the result by 1.2, or searches 0.8 to 2.2: that is the weight here.

    Args:
        deltas: tuned minus base, one row for each model. Shape (models, *weight), float32.
        weights: factor of each model's changes. Shape (models,).
        ratio: share of each model's changes that stay, in (0, 1].
        clamp: share of magnitudes at either end that are cut, in [0, 0.5).
        scope: what the quantiles are over.
        known: for the whole model, `ends` and `marks` as a first pass found them, each (models, 2);
            without it this tensor is all there is.

    Returns:
        The merged delta. Shape (*weight).
    """
    rows = deltas.flatten(1)
    if known:
        ends, marks = _pairs(known["ends"]), _pairs(known["marks"])
    else:
        knobs = {"ratio": ratio, "clamp": clamp}
        ends = _at_ranks(rows.abs(), _end_ranks(rows.shape[1], knobs))
        marks = _at_ranks(balances(rows, ends)[0], _mark_ranks(rows.shape[1], knobs))
    return _merge(rows, weights, ends, marks).view(deltas.shape[1:])


@merge_methods.streamed("pcb")
def pcb_streamed(
    stack: Stack,
    weights: Tensor,
    *,
    ratio: float,
    clamp: float,
    scope: str,
    known: Known | None = None,
) -> Iterator[Tensor]:
    """Merge in one pass where the quantiles are known, else in five."""
    knobs = {"ratio": ratio, "clamp": clamp, "scope": scope}
    known = known or known_of(COMPETITION, stack, knobs)
    ends, marks = _pairs(known["ends"]), _pairs(known["marks"])
    for rows in stack.chunks():
        yield _merge(rows, weights, ends, marks)


def balances(rows: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    """Return how each change stands in the competition, and the clamped changes.

    Args:
        rows: the deltas. Shape (models, elements).
        ends: each model's least and greatest magnitude after clamping.

    Returns:
        Two tensors of the rows' shape.
    """
    signs, sizes = rows.sign(), rows.abs()
    for row, (least, most) in zip(sizes, ends, strict=True):
        row.clamp_(least, most)
    clamped = signs * sizes
    for row, span in zip(sizes, ends, strict=True):
        _stretch(row, span)
    signed = signs * sizes  # Z
    balance = torch.zeros_like(rows)
    for one in range(len(rows)):
        for other in range(one, len(rows)):
            agreement = (signed[one] * signed[other]).tanh_()
            balance[one] += agreement
            if other != one:
                balance[other] += agreement
    return balance.mul_(sizes.square_().mul_(len(rows)).exp_()), clamped


def _merge(rows: Tensor, weights: Tensor, ends: Ends, marks: Ends) -> Tensor:
    balance, clamped = balances(rows, ends)
    for row, (least, most) in zip(balance, marks, strict=True):
        _stretch(row.clamp_(least, most), (least, most))
    total = balance.sum(0).clamp_min_(1e-12)
    return torch.einsum("m,me->e", weights, balance.mul_(clamped)).div_(total)


def _stretch(row: Tensor, span: tuple[float, float]) -> None:
    """Map a span to [0, 1], in place; a span without length to 0."""
    least, most = span
    row.sub_(least)
    if most > least:
        row.div_(row.new_tensor(most) - least)


def _end_ranks(count: int, knobs: Knobs) -> tuple[int, int]:
    """Return the ranks of the least and greatest magnitude that stay as they are."""
    low = int(count * knobs["clamp"])
    return low, max(low, int(count * (1 - knobs["clamp"])) - 1)


def _mark_ranks(count: int, knobs: Knobs) -> tuple[int, int]:
    """Return the ranks of the threshold and of the greatest balance."""
    return min(int(count * (1 - knobs["ratio"])), count - 1), count - 1


def _at_ranks(rows: Tensor, ranks: tuple[int, int]) -> Ends:
    ordered = rows.sort(dim=1).values[:, list(ranks)]
    return [(low, high) for low, high in ordered.tolist()]


def _pairs(numbers: Tensor) -> Ends:
    return [(low, high) for low, high in numbers.tolist()]


def _coarse(chunks: Iterable[Tensor]) -> Tensor:
    """Count by upper bits, model by model. Shape (models, BINS)."""
    return sum((torch.stack([coarse_counts(row) for row in rows]) for rows in chunks), torch.tensor(0))


def _fine(chunks: Iterable[Tensor], bins: Tensor) -> Tensor:
    """Count within both bins of every model. Shape (models, 2, FINE_BINS)."""
    counts = [[FineCounts(place) for place in places] for places in bins.tolist()]
    for rows in chunks:
        for row, both in zip(rows, counts, strict=True):
            for one in both:
                one.add(row)
    return torch.stack([torch.stack([one.counts() for one in both]) for both in counts])
