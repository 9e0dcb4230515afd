"""A preview shows the tokens that training will see."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeJob, FakeShelf

from lab.core.errors import BadInput, NotFound
from lab.data.preview import run
from lab.data.preview_check import check
from lab.data.spec import PreviewSpec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    rows = [{"instruction": "Hi", "output": "Yo🏴"}, {"instruction": "Hello", "output": "b" * 10}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_pieces_spell_the_row_and_say_what_is_trained(
    make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data})
    summary = run(PreviewSpec(model="base", dataset="talk"), job).summary
    first = summary["rows"][0]
    whole = "".join(text for text, _ in first["pieces"])
    assert whole == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo🏴<|im_end|>\n"
    assert [text for text, is_trained in first["pieces"] if is_trained] == ["Y", "o", "🏴", "<|im_end|>"]
    json.dumps(dict(summary))


def test_the_figures_are_those_of_the_tokens(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    summary = run(PreviewSpec(model="base", dataset="talk"), job).summary
    # 21 tokens lead to the answer of the first row, 24 to that of the second; one line end follows each.
    lengths = [21 + 6 + 1 + 1, 24 + 10 + 1 + 1]
    assert (summary["p50"], summary["longest"]) == (lengths[0], lengths[1])
    assert summary["trained_share"] == pytest.approx((7 + 11) / sum(lengths))
    assert summary["cut_share"] == 0


def test_cut_rows_are_counted(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    summary = run(PreviewSpec(model="base", dataset="talk", rows=1, max_length=30), job).summary
    assert summary["cut_share"] == 0.5
    assert len(summary["rows"]) == 1


def test_a_dataset_without_a_good_row_is_refused(make_job: Callable[..., FakeJob], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    with pytest.raises(BadInput):
        run(PreviewSpec(model="base", dataset="bad"), make_job(places={"bad": tmp_path / "bad.jsonl"}))


def test_a_missing_model_or_dataset_is_refused_before_the_job_is_queued(shelf: FakeShelf) -> None:
    with pytest.raises(NotFound):
        check(PreviewSpec(model="none", dataset="base"), shelf)
    with pytest.raises(NotFound):
        check(PreviewSpec(model="base", dataset="none"), shelf)
