"""95 % intervals of one figure: of a share by Wilson's formula, of a ratio of totals by bootstrap. Pure."""

from collections.abc import Sequence

from lab.models.lazytorch import Generator, torch

DRAWS = 10_000
CHUNK = 1 << 22
"""Resampled indices held at once: 32 MiB."""

WORK = 20_000_000
"""Indices drawn for one interval at most; beyond 2,000 items there are fewer draws, never below 1,000."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; it stays inside [0, 1] and is honest for few items.

    Args:
        successes: how many of the items, from 0 to n.
        n: how many items, at least 1.
    """
    from scipy.stats import binomtest  # half a second to import: only where something is scored

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_ratio(
    parts: Sequence[float], sizes: Sequence[float], generator: Generator, draws: int = DRAWS
) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(parts) / sum(sizes) when items are drawn again.

    Args:
        parts: each item's share of the total, such as its bits.
        sizes: each item's size, positive, such as its bytes.
        generator: the source of randomness; the same seed gives the same interval.
        draws: how many times the items are drawn again; fewer where there are many items.
    """
    n = len(parts)
    part, size = torch.tensor(parts, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64)
    draws = min(draws, max(1000, WORK // n))
    rows = max(1, CHUNK // n)
    ratios = []
    for start in range(0, draws, rows):
        picked = torch.randint(n, (min(rows, draws - start), n), generator=generator)  # (draws, n)
        ratios.append(part[picked].sum(1) / size[picked].sum(1))
    bounds = torch.quantile(torch.cat(ratios), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(bounds[0]), float(bounds[1])
