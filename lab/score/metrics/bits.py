"""Bits per byte of plain texts."""

import math
from collections.abc import Sequence

from lab.models.lazytorch import Generator
from lab.score.intervals import bootstrap_ratio
from lab.score.metric import Score, TextLikelihood, metrics


@metrics.register(
    "bits_per_byte",
    label="Bits per byte",
    reads="text",
    higher_is_better=False,
    source="EleutherAI lm-eval 0.4.13, output_type loglikelihood_rolling, bits_per_byte",
)
def bits_per_byte(items: Sequence[TextLikelihood], generator: Generator | None) -> Score:
    """Bits that the model needs for a byte of the texts: lower is better.

    Totals over all documents, not the mean of each document's figure:
    value = -sum_d log p(d) / (ln 2 * sum_d bytes(d)). It compares models whatever their tokenizers.

    Args:
        items: the texts, at least one, none empty.
        generator: draws the documents again for the interval; None leaves it at the value.

    Raises:
        ValueError: there are no items.
    """
    if not items:
        raise ValueError("bits per byte needs at least one text")
    bits = tuple(-item.log_likelihood / math.log(2) for item in items)
    sizes = tuple(float(item.size_bytes) for item in items)
    value = math.fsum(bits) / math.fsum(sizes)
    low = high = value
    if generator is not None and len(items) > 1:
        low, high = bootstrap_ratio(bits, sizes, generator)
    return Score(value, low, high, len(items), bits, sizes)
