"""lab/score/metrics/bits: worked by hand."""

import math

import pytest
import torch

from lab.score.metric import TextLikelihood, metrics

bits_per_byte = metrics["bits_per_byte"].measure


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_bits_per_byte_is_a_ratio_of_totals_not_a_mean_of_ratios():
    # 8 bits over 4 bytes and 30 bits over 6 bytes: 38 / 10 = 3.8; the mean of 2 and 5 would be 3.5.
    texts = [TextLikelihood(-8 * math.log(2), 4), TextLikelihood(-30 * math.log(2), 6)]
    score = bits_per_byte(texts, seeded())
    assert score.value == pytest.approx(3.8, abs=1e-12)
    assert (score.low, score.high) == (pytest.approx(2), pytest.approx(5))
    assert score.parts == (pytest.approx(8), pytest.approx(30))
    assert score.sizes == (4, 6)


def test_the_same_seed_gives_the_same_interval():
    texts = [TextLikelihood(-float(n * n), 10 + n) for n in range(1, 30)]
    assert bits_per_byte(texts, seeded()) == bits_per_byte(texts, seeded())


def test_the_interval_is_about_two_standard_errors_either_way():
    generator = torch.Generator().manual_seed(1)
    bits = (100 + 10 * torch.randn(400, generator=generator, dtype=torch.float64)).tolist()
    score = bits_per_byte([TextLikelihood(-value * math.log(2), 100) for value in bits], seeded())
    standard_error = torch.tensor(bits).std().item() / 100 / math.sqrt(400)
    assert score.value - score.low == pytest.approx(1.96 * standard_error, rel=0.08)
    assert score.high - score.value == pytest.approx(1.96 * standard_error, rel=0.08)


def test_without_a_generator_there_is_no_interval_yet():
    score = bits_per_byte([TextLikelihood(-1.0, 1), TextLikelihood(-2.0, 1)], None)
    assert score.low == score.value == score.high


def test_one_text_leaves_nothing_to_draw_again():
    score = bits_per_byte([TextLikelihood(-math.log(2), 1)], seeded())
    assert (score.value, score.low, score.high, score.n) == (1.0, 1.0, 1.0, 1)
