"""Is one model really better than another? Paired tests over the same items, and the verdict. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.models.lazytorch import Generator, torch
from lab.score.intervals import CHUNK, DRAWS, bootstrap_ratio

LEVEL = 0.05
POWER_FACTOR = 7.85
"""(z_0.975 + z_0.8)^2: 80 % power at 5 %, two-sided."""

TARGET_POINTS = 10


@dataclass(frozen=True)
class Flips:
    """What changed between two models, question by question.

    Attributes:
        fixed: wrong before, right now.
        broken: right before, wrong now.
        n: how many questions both answered.
    """

    fixed: int
    broken: int
    n: int


def flips(base: Sequence[float], new: Sequence[float]) -> Flips:
    """Count the questions that were fixed and broken.

    Args:
        base: 1 for right and 0 for wrong, item by item.
        new: the same for the new model, in the same order.

    Raises:
        ValueError: the two have different lengths.
    """
    pairs = list(zip(base, new, strict=True))
    fixed = sum(after > before for before, after in pairs)
    broken = sum(after < before for before, after in pairs)
    return Flips(fixed, broken, len(pairs))


def mcnemar_p(fixed: int, broken: int) -> float:
    """Return the exact two-sided p of McNemar's test: p = 2 P(Binom(fixed + broken, 1/2) <= the lesser).

    Only the flips count; what both got right or both got wrong says nothing about the difference.
    """
    if fixed + broken == 0:
        return 1.0
    from scipy.stats import binomtest  # half a second to import: only where something is scored

    return float(binomtest(fixed, fixed + broken).pvalue)


def items_needed(flipped_share: float, points: float = TARGET_POINTS) -> int:
    """Return how many items would show a difference: n = 7.85 d / delta^2 (80 % power at 5 %).

    Args:
        flipped_share: d, the share of items on which the two models differ, in [0, 1].
        points: delta, the difference to be shown, in percentage points.
    """
    return math.ceil(round(POWER_FACTOR * flipped_share / (points / 100) ** 2, 6))


def points_shown(flipped_share: float, n: int) -> float:
    """Return the difference, in percentage points, that n items would show: the inverse of `items_needed`."""
    return 100 * math.sqrt(POWER_FACTOR * flipped_share / n)


@dataclass(frozen=True)
class Difference:
    """New minus base, as a ratio of totals, with its paired 95 % interval and p.

    Attributes:
        value: the difference; negative means that the new model's figure is lower.
        low, high: percentile interval over items drawn again in pairs.
        p: two-sided sign-flip permutation p.
        n: how many items both have.
    """

    value: float
    low: float
    high: float
    p: float
    n: int


def paired_difference(
    base: Sequence[float],
    new: Sequence[float],
    sizes: Sequence[float],
    generator: Generator,
    draws: int = DRAWS,
) -> Difference:
    """Compare two models on the same items by paired bootstrap and sign-flip permutation.

    With d_i = new_i - base_i the difference is sum d / sum sizes. The interval draws items again; the
    p is (1 + #{|T*| >= |T|}) / (draws + 1), where T* flips the sign of each d_i at random.

    Args:
        base: each item's share of the base's total.
        new: the same for the new model, in the same order.
        sizes: each item's size, positive and the same for both models.
        generator: the source of randomness.
        draws: how many resamples each takes.

    Raises:
        ValueError: the lengths differ.
    """
    gaps = [after - before for before, after in zip(base, new, strict=True)]
    if len(gaps) != len(sizes):
        raise ValueError(f"{len(gaps)} items but {len(sizes)} sizes")
    value = math.fsum(gaps) / math.fsum(sizes)
    low, high = bootstrap_ratio(gaps, sizes, generator, draws)
    return Difference(value, low, high, _sign_flip_p(gaps, generator, draws), len(gaps))


def _sign_flip_p(gaps: Sequence[float], generator: Generator, draws: int) -> float:
    gap = torch.tensor(gaps, dtype=torch.float64)
    observed = abs(float(gap.sum())) * (1 - 1e-12)  # the same sum in another order still counts as equal
    rows, extreme = max(1, CHUNK // len(gaps)), 0
    for start in range(0, draws, rows):
        coins = torch.randint(2, (min(rows, draws - start), len(gaps)), generator=generator)
        totals = ((2 * coins - 1).to(gap.dtype) * gap).sum(1)
        extreme += int((totals.abs() >= observed).sum())
    return (1 + extreme) / (draws + 1)


def flips_sentence(new: str, base: str, seen: Flips) -> str:
    """Say what a model fixed and broke, whether that is more than noise, and how many items would tell.

    "D against A: 5 fixed, 2 broken of 40; not distinguishable from noise (McNemar p = 0.45). 157 items
    would show a difference of 10 points." The share of flips is taken as one flip more than was
    seen, so that a few items without a flip don't promise too much.

    Args:
        new: what to call the new model.
        base: what to call the one it is held against.
        seen: the flips between them.
    """
    p = mcnemar_p(seen.fixed, seen.broken)
    counts = f"{new} against {base}: {seen.fixed} fixed, {seen.broken} broken of {seen.n}"
    if p < LEVEL:
        word = "better" if seen.fixed > seen.broken else "worse"
        return f"{counts}; {word}, and more than noise (McNemar p = {_p_words(p)})."
    share = min(1.0, (seen.fixed + seen.broken + 1) / seen.n)
    needed = items_needed(share)
    power = f"{needed:,} items would show a difference of {TARGET_POINTS} points."
    if needed <= seen.n:
        power = f"These {seen.n:,} items would show a difference of {points_shown(share, seen.n):.1f} points."
    return f"{counts}; not distinguishable from noise (McNemar p = {_p_words(p)}). {power}"


def difference_sentence(new: str, base: str, unit: str, seen: Difference) -> str:
    """Say by how much a figure for which lower is better changed, and whether that is more than noise.

    Args:
        new: what to call the new model.
        base: what to call the one it is held against.
        unit: the figure's unit, such as "bits per byte".
        seen: the paired difference, new minus base.
    """
    span = f"{seen.low:+.4f} to {seen.high:+.4f}"
    change = f"{new} against {base}: {seen.value:+.4f} {unit} ({span}) over {seen.n} texts"
    p = _p_words(seen.p)
    if seen.p < LEVEL:
        word = "better" if seen.value < 0 else "worse"
        return f"{change}; {word}, and more than noise (sign flips, p = {p})."
    more = " Fewer than 6 texts can never show more." if seen.n < 6 else ""
    return f"{change}; not distinguishable from noise (sign flips, p = {p}).{more}"


def _p_words(p: float) -> str:
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"
