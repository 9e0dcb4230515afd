"""Exact selection in chunks, against sorting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.merge.selection import keep_largest, largest_cuts


def in_chunks(rows: torch.Tensor, counts: list[int], length: int) -> torch.Tensor:
    pieces = rows.split(length, dim=1)
    cuts = largest_cuts(lambda: (piece.abs() for piece in pieces), counts, rows.shape[1])
    kept = [
        torch.stack([cut.trim(row.clone()) for row, cut in zip(piece, cuts, strict=True)]) for piece in pieces
    ]
    return torch.cat(kept, dim=1)


NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, 1.0000001]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40), st.data())
def test_chunks_keep_what_sorting_keeps(numbers: list[float], data: st.DataObject):
    row = torch.tensor(numbers, dtype=torch.float32)
    count = data.draw(st.integers(0, len(numbers)))
    length = data.draw(st.integers(1, len(numbers)))
    expected = keep_largest(row, count)
    assert torch.equal(in_chunks(row[None], [count], length)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_so_many_are_kept_where_many_are_equal(dtype: torch.dtype):
    rows = torch.randn(2, 5000, generator=torch.Generator().manual_seed(1)).to(dtype).float()
    kept = in_chunks(rows, [2500, 17], 512)
    assert kept.count_nonzero(dim=1).tolist() == [2500, 17]
    for row, trimmed, count in zip(rows, kept, (2500, 17), strict=True):
        assert trimmed.abs()[trimmed != 0].min() >= (row - trimmed).abs().max()
        assert int(trimmed.count_nonzero()) == count


def test_none_and_all_need_no_pass():
    def passes():
        raise AssertionError("no pass is needed")

    none, every = largest_cuts(passes, [0, 3], 3)
    row = torch.tensor([1.0, 0.0, -2.0])
    assert none.trim(row.clone()).tolist() == [0.0, 0.0, 0.0]
    assert every.trim(row.clone()).tolist() == [1.0, 0.0, -2.0]
