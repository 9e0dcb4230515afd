"""What is refused before a fine-tune is queued, and what is estimated."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeShelf
from tiny_models import Bench, Shape, write_model

from lab.core.errors import BadInput, NotFound
from lab.tune.check import check
from lab.tune.spec import TuneSpec


@pytest.fixture
def shelf(bench: Bench, tmp_path: Path) -> FakeShelf:
    data = tmp_path / "talk.jsonl"
    rows = [{"instruction": f"Question {n}", "output": "Answer " * 10} for n in range(100)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    names = {name: tmp_path / f"{name}.jsonl" for name in ("talk", "empty", "bad")}
    return FakeShelf(bench.root, names)


def spec(**values: Any) -> TuneSpec:
    return TuneSpec(**{"model": "base", "dataset": "talk", "name": "mate", **values})


def refusal(shelf: FakeShelf, **values: Any) -> BadInput:
    with pytest.raises(BadInput) as refused:
        check(spec(**values), shelf)
    return refused.value


def test_a_fine_tune_that_can_work_is_estimated(shelf: FakeShelf) -> None:
    estimate = check(spec(batch=8), shelf)
    assert (estimate.plan.train_rows, estimate.plan.held_out_rows) == (84, 16)
    assert estimate.plan.steps == 33
    assert estimate.trained == 16 * 2 * (2 * 128 + 2 * 96 + 3 * 192)
    assert estimate.tokens > 33 * 8 * 40
    assert "33 steps of 8 rows" in estimate.words


def test_an_adapter_is_no_start_and_its_base_is_suggested(shelf: FakeShelf) -> None:
    refused = refusal(shelf, model="adapter")
    assert refused.field == "model"
    assert "Choose its base base" in refused.do


@pytest.mark.parametrize(
    ("dataset", "said"), [("empty", "no row to learn from"), ("bad", "no row to learn from")]
)
def test_a_dataset_without_a_good_row_is_refused(dataset: str, said: str, shelf: FakeShelf) -> None:
    refused = refusal(shelf, dataset=dataset)
    assert refused.field == "dataset"
    assert said in str(refused)


def test_what_is_not_there_is_refused(shelf: FakeShelf) -> None:
    with pytest.raises(NotFound):
        check(spec(model="none"), shelf)
    with pytest.raises(NotFound):
        check(spec(dataset="none"), shelf)


def test_a_folder_that_is_no_model_is_refused(shelf: FakeShelf, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    shelf.places = {**shelf.places, "nothing": tmp_path / "nothing"}
    assert refusal(shelf, model="nothing").field == "model"


def test_a_cut_off_weight_file_is_refused(shelf: FakeShelf, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shelf.places = {**shelf.places, "cut": folder}
    assert refusal(shelf, model="cut").field == "model"


def test_a_model_without_chat_template_is_refused(shelf: FakeShelf, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "raw")
    (folder / "tokenizer_config.json").write_text("{}")
    shelf.places = {**shelf.places, "raw": folder}
    assert "no chat template" in str(refusal(shelf, model="raw"))


def test_rows_longer_than_the_context_are_refused(shelf: FakeShelf) -> None:
    refused = refusal(shelf, max_length=513)
    assert refused.field == "max_length"
    assert "512 or fewer" in refused.do


def test_a_rank_wider_than_the_model_is_refused(shelf: FakeShelf) -> None:
    assert refusal(shelf, rank=65).field == "rank"


def test_a_model_too_narrow_for_four_bits_is_refused(shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.places = {**shelf.places, "narrow": write_model(tmp_path / "narrow", shape=Shape(hidden=32))}
    assert refusal(shelf, model="narrow", method="qlora").field == "method"


def test_a_run_too_large_for_memory_is_refused_with_changes_that_would_fit(
    shelf: FakeShelf, tmp_path: Path
) -> None:
    folder = tmp_path / "large"
    write_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 16, "hidden_size": 4096, "intermediate_size": 11008, "head_dim": 128}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    shelf.places = {**shelf.places, "large": folder}
    shelf.memory = 8 << 30
    refused = refusal(shelf, model="large", max_length=2048, rank=128)
    assert "GB of memory" in refused.saw
    assert "has 8.0 GB." in refused.expected
    assert refused.do.startswith("It would fit with method qlora")
    assert refused.do.count(", or ") == 2  # three changes
    shelf.memory = 1 << 20
    assert "smaller model" in refusal(shelf, model="large").do


def test_a_disk_without_room_is_refused(shelf: FakeShelf) -> None:
    shelf.free_disk = 1 << 20
    assert "Only 1 MB are free" in refusal(shelf).expected
