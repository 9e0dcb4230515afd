"""Arcee Fusion: take over only the changes that matter most to the distributions a weight's rows make."""

from collections.abc import Iterable, Iterator

import numpy as np

from lab.merge.registry import Stack, merge_methods
from lab.merge.selection import largest_values, sample_size
from lab.models.lazytorch import Tensor, torch

_FLOOR = 1e-8


@merge_methods.register(
    "arcee_fusion",
    source="Arcee Fusion, arcee.ai; mergekit 0.1",
    space="weight",
    models=(2, 2),
    weighted=False,
    base="first",
    nanoseconds=14.0,
    use="When you add one fine-tune to another model and want only its most telling changes.",
)
def arcee_fusion(models: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG001  every method has the same two
    """Add to the base b the changes of x whose importance |x - b| KL is at least median + 1.5 (q3 - q1).

    KL = sum p log(p / q) along the last dimension, with p = softmax(x) + 1e-8 and q = softmax(b) + 1e-8,
    one number for each row; it is at least zero here, where mergekit lets rounding make it negative. The
    quartiles q1, median and q3 are those of the tensor's importances, at place floor(q (n - 1)) in
    ascending order. Departs from mergekit in that they are exact: of more than a million elements it
    takes those of a random sample, so that its result changes from run to run.

    Args:
        models: the base b, then the other x. Shape (2, *weight), float32.
        weights: not used.

    Returns:
        Shape (*weight).
    """
    base, other = models
    change = other - base
    importance = change.abs() * _divergence(models).unsqueeze(-1)
    ordered = importance.flatten().sort().values
    q1, median, q3 = (float(ordered[place]) for place in _places(len(ordered)))
    return base + change * (importance >= _bound(q1, median, q3))


@merge_methods.streamed("arcee_fusion")
def arcee_fusion_streamed(
    stack: Stack,
    weights: Tensor,  # noqa: ARG001  every method has the same two
) -> Iterator[Tensor]:
    """Merge in three passes over whole rows, four at worst: divergences, the quartiles, then the sum."""
    columns = stack.shape[-1] if stack.shape else 1
    total = torch.Size(stack.shape).numel()
    step, start = total // sample_size(total) | 1, 0
    # Filled in place: small pieces kept beside large ones that go would keep the holes open.
    divergence, sample = torch.empty(total // columns), torch.empty(1, -(-total // step))
    for chunk in stack.chunks(columns):
        rows, row = chunk.view(2, -1, columns), start // columns
        found = _divergence(rows)
        divergence[row : row + len(found)] = found
        picked = (rows[1].sub_(rows[0]).abs_() * found[:, None]).flatten()[-start % step :: step]
        sample[0, -(-start // step) :][: len(picked)] = picked
        start += rows[0].numel()

    def importances() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        row = 0
        for chunk in stack.chunks(columns):
            base, other = chunk.view(2, -1, columns)
            change = other.sub_(base)
            yield chunk[0], change.flatten(), change.abs() * divergence[row : row + len(change), None]
            row += len(change)

    def passes() -> Iterable[list[Tensor]]:
        return ([importance.flatten()] for _, _, importance in importances())

    counts = [total - place for place in _places(total)]  # of the largest, the last is the one sought
    bound = _bound(*largest_values(passes, counts, total, sample))
    for base, change, importance in importances():
        yield base.add_(change.mul_(importance.flatten() >= bound))


def _divergence(models: Tensor) -> Tensor:
    """Return KL of the second from the first, row by row. Shape (2, *rows, columns) -> (*rows)."""
    q, p = (torch.softmax(model, dim=-1).add_(_FLOOR) for model in models)
    return torch.sum(p * torch.log(p / q), dim=-1).clamp_min_(0.0)


def _places(total: int) -> list[int]:
    """Return where the quartiles stand among `total` values in ascending order."""
    return [int(np.float32(quarter) * np.float32(total - 1)) for quarter in (0.25, 0.5, 0.75)]


def _bound(q1: float, median: float, q3: float) -> float:
    return float(np.float32(median) + np.float32(1.5) * (np.float32(q3) - np.float32(q1)))
