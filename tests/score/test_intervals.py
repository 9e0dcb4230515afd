"""lab/score/intervals against published values and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from lab.score.intervals import bootstrap_ratio, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_the_published_bounds(successes, n, low, high):
    assert wilson(successes, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_bootstrap_agrees_with_scipys():
    random = np.random.default_rng(0)
    sizes = random.integers(50, 500, 60).astype(float)
    parts = sizes * random.normal(1.0, 0.2, 60)
    low, high = bootstrap_ratio(parts.tolist(), sizes.tolist(), torch.Generator().manual_seed(0))
    oracle = bootstrap(
        (parts, sizes),
        lambda part, size, axis: part.sum(axis) / size.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=random,
    ).confidence_interval
    width = oracle.high - oracle.low
    assert low == pytest.approx(oracle.low, abs=0.05 * width)
    assert high == pytest.approx(oracle.high, abs=0.05 * width)


def test_many_items_get_fewer_draws_but_an_interval_all_the_same():
    low, high = bootstrap_ratio([1.0, 3.0] * 10_000, [1.0] * 20_000, torch.Generator().manual_seed(0))
    assert (low, high) == (pytest.approx(2 - 0.0139, abs=2e-3), pytest.approx(2 + 0.0139, abs=2e-3))
