"""What a metric is: a pure function from likelihoods to a score with an interval and a count.

Knows nothing of files or models. The functions live in lab/score/metrics/, one file each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.core.registry import Registry
from lab.models.lazytorch import Generator

Reads = Literal["choices", "text"]


@dataclass(frozen=True)
class ChoiceLikelihoods:
    """How likely a model finds each answer to one question.

    Attributes:
        log_likelihoods: log p(choice | question), in nats, one a choice.
        choices: the answers as they were read, without the space before them.
        answer: index of the right one.
    """

    log_likelihoods: tuple[float, ...]
    choices: tuple[str, ...]
    answer: int

    @property
    def pick(self) -> int:
        """The most likely choice; a draw goes to the first, as in lm-eval."""
        return self.log_likelihoods.index(max(self.log_likelihoods))


@dataclass(frozen=True)
class TextLikelihood:
    """How likely a model finds one text.

    Attributes:
        log_likelihood: log p(text), in nats.
        size_bytes: the text's length in UTF-8, in bytes.
    """

    log_likelihood: float
    size_bytes: int


@dataclass(frozen=True)
class Score:
    """One figure with its 95 % interval.

    `parts` and `sizes` are kept so that two models can be paired item by item; for every metric here
    value == sum(parts) / sum(sizes).

    Attributes:
        value: the figure.
        low, high: its 95 % interval; equal to the value where one item leaves nothing to resample.
        n: how many items it rests on.
        parts: each item's own share, in the data's order: 0 or 1 for accuracy, bits for a text.
        sizes: each item's size, in the same order: 1 for a question, bytes for a text.
    """

    value: float
    low: float
    high: float
    n: int
    parts: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()


Measure = Callable[[Sequence[Any], Generator | None], Score]
"""The signature of a metric: measure(items, generator).

The generator serves a bootstrap; None leaves that out, for figures that still grow.
"""


@dataclass(frozen=True)
class Metric:
    """A metric, and what a chart or table has to know of it.

    Attributes:
        name: its name in stored scores, such as "bits_per_byte".
        label: its name for people.
        reads: what its items are: answered questions, or texts.
        higher_is_better: the direction.
        source: where the formula is from.
        measure: the function.
    """

    name: str
    label: str
    reads: Reads
    higher_is_better: bool
    source: str
    measure: Measure

    @property
    def words(self) -> str:
        """The first sentence of its docstring."""
        return (self.measure.__doc__ or "").strip().split("\n")[0]


class Metrics(Registry[Metric]):
    """The registry of metrics."""

    def register(
        self, name: str, *, label: str, reads: Reads, source: str, higher_is_better: bool = True
    ) -> Callable[[Measure], Measure]:
        """Register a function as a metric; it is returned unchanged."""

        def add(measure: Measure) -> Measure:
            self.add(name, Metric(name, label, reads, higher_is_better, source, measure))
            return measure

        return add

    def reading(self, what: Reads) -> list[Metric]:
        """Return the metrics of one kind of item, sorted by name."""
        return [metric for metric in self.values() if metric.reads == what]


metrics = Metrics("metric", package="lab.score.metrics")
