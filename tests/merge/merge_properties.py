"""What holds for every merge method, whoever wrote it. The tests of docs/merge-methods.md use it too."""

from collections.abc import Callable, Hashable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lab.merge.draws import Draws
from lab.merge.registry import Found, MergeMethod

PARTIAL = ("arcee_fusion", "nearswap")
"""Methods that take over a part of what one model changed, and so don't give that model back."""


class Chunked:
    """A stack in chunks of a given length, in one buffer that is used again."""

    def __init__(self, rows: Tensor, length: int) -> None:
        self.shape, self.models = tuple(rows.shape[1:]), len(rows)
        self._rows, self._length = rows.flatten(1), length

    def chunks(self, multiple: int = 1) -> Iterator[Tensor]:
        length = max(self._length // multiple, 1) * multiple
        scratch = torch.empty(len(self._rows), length)
        for piece in self._rows.split(length, dim=1):
            chunk = scratch[:, : piece.shape[1]]
            yield chunk.copy_(piece)
            scratch.fill_(float("nan"))  # whoever still holds the chunk will notice

    def sample(self, count: int) -> Tensor:
        return self._rows[:, :: self._rows.shape[1] // count | 1].clone()

    def recall(self, what: Hashable, find: Callable[[], Found]) -> Found:
        return find()


DROPS_WHAT_IS_COMMON = {"pcb"}
"""Methods that, by their definition and with their defaults, don't give back what all models share."""


def knobs_of(method: MergeMethod, **changes: Any) -> dict[str, Any]:
    """Return a method's knobs by argument name, with defaults."""
    return {name: changes.get(name, info.default) for name, info in method.knobs.model_fields.items()}


def merge(method: MergeMethod, rows: Tensor, weights: Tensor, seed: int = 3, **changes: Any) -> Tensor:
    """Merge whole tensors, with the random numbers of a seed for methods that draw."""
    return method.function(rows, weights, **method.arguments(knobs_of(method, **changes), Draws(seed, "t")))


def counts(method: MergeMethod) -> range:
    """Return the numbers of models to try."""
    return range(method.models[0], min(method.models[1], 4) + 1)


def some_rows(count: int, shape: tuple[int, ...] = (5, 7), seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def check_everything(method: MergeMethod) -> None:
    """Check a method with its default knobs against all that must hold."""
    for count in counts(method):
        result_has_one_models_shape(method, count)
        inputs_are_left_alone(method, count)
        identical_models_give_that_model(method, count)
        no_change_leaves_the_base(method, count)
        chunks_give_what_the_whole_gives(method, count)
        order_of_equal_models_does_not_matter(method, count)
        faults_show_where_that_is_said(method, count)


def faults_show_where_that_is_said(method: MergeMethod, count: int) -> None:
    if not method.shows_faults:
        return
    for place, bad, weight in product(range(count), (float("nan"), float("inf"), -float("inf")), (0.0, 1.0)):
        rows, weights = some_rows(count), torch.ones(count)
        rows[place, 2, 3], weights[place] = bad, weight if count > 1 else 1.0
        assert not merge(method, rows, weights)[2, 3].isfinite()


def result_has_one_models_shape(method: MergeMethod, count: int) -> None:
    for shape in ((5, 7), (3,), (1, 1), (2, 3, 4)):
        merged = merge(method, some_rows(count, shape), torch.ones(count))
        assert merged.shape == shape
        assert merged.dtype == torch.float32


def inputs_are_left_alone(method: MergeMethod, count: int) -> None:
    rows = some_rows(count)
    before = rows.clone()
    merge(method, rows, torch.ones(count))
    assert torch.equal(rows, before)


def identical_models_give_that_model(method: MergeMethod, count: int) -> None:
    if method.name in (*PARTIAL, *DROPS_WHAT_IS_COMMON):
        return
    row = some_rows(1)
    weights = torch.full((count,), 1 / count)
    merged = merge(method, row.expand(count, *row.shape[1:]).clone(), weights)
    torch.testing.assert_close(merged, row[0], rtol=1e-5, atol=1e-6)


def no_change_leaves_the_base(method: MergeMethod, count: int) -> None:
    if method.space == "delta":
        merged = merge(method, torch.zeros(count, 5, 7), torch.ones(count))
        assert torch.equal(merged, torch.zeros(5, 7))


def chunks_give_what_the_whole_gives(method: MergeMethod, count: int, **changes: Any) -> None:
    rows, weights = some_rows(count), torch.linspace(1.0, 0.4, count)
    knobs = knobs_of(method, **changes)
    whole = merge(method, rows.clone(), weights, **changes)
    for length in (1, 4, 16, 35, 100):
        streamed = method.stream(Chunked(rows, length), weights, knobs, Draws(3, "t"))
        pieces = [piece.clone() for piece in streamed]
        torch.testing.assert_close(torch.cat(pieces).view(whole.shape), whole, rtol=1e-5, atol=1e-6)


def order_of_equal_models_does_not_matter(method: MergeMethod, count: int) -> None:
    if method.base == "first" and knobs_of(method) != {"t": 0.5}:
        return  # the base comes first
    rows, weights = some_rows(count), torch.full((count,), 0.7)
    forward = merge(method, rows.clone(), weights)
    backward = merge(method, rows.flip(0).clone(), weights)
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)
