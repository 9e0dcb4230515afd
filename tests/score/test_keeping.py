"""Files to score on are checked as they will be read, and kept whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.core.errors import BadInput, Conflict
from lab.core.settings import Settings
from lab.core.store import Store, open_store
from lab.score.keeping import keep_file

QUESTION = {"question": "Two and two?", "choices": ["four", "five"], "answer": 0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "lab")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = open_store(settings)
    yield opened
    opened.close()


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_good_file_is_kept_byte_for_byte(tmp_path: Path, store: Store, settings: Settings) -> None:
    file = write(tmp_path / "q.jsonl", QUESTION, QUESTION)
    row = keep_file(file, "mine", "choices", "me", store, settings.datasets)
    assert row.facts == {"format": "choices", "items": 2, "origin": "q.jsonl"}
    assert (settings.datasets / "mine.jsonl").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("reads", "row"),
    [("choices", {"text": "no question"}), ("text", QUESTION), ("choices", {**QUESTION, "answer": 2})],
)
def test_a_bad_line_refuses_the_file_and_keeps_nothing(
    reads: str, row: dict[str, object], tmp_path: Path, store: Store, settings: Settings
) -> None:
    file = write(tmp_path / "q.jsonl", row)
    with pytest.raises(BadInput, match="line 1"):
        keep_file(file, "mine", reads, "me", store, settings.datasets)  # type: ignore[arg-type]
    assert list(settings.datasets.iterdir()) == []
    assert store.datasets.list() == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "x" * 65, "<b>"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path, store: Store, settings: Settings) -> None:
    file = write(tmp_path / "q.jsonl", QUESTION)
    with pytest.raises(BadInput, match="name"):
        keep_file(file, name, "choices", "me", store, settings.datasets)


def test_a_name_that_is_taken_keeps_the_first_file(tmp_path: Path, store: Store, settings: Settings) -> None:
    keep_file(write(tmp_path / "a.jsonl", {"text": "first"}), "mine", "text", "me", store, settings.datasets)
    with pytest.raises(Conflict):
        keep_file(
            write(tmp_path / "b.jsonl", {"text": "second"}), "mine", "text", "me", store, settings.datasets
        )
    assert "first" in (settings.datasets / "mine.jsonl").read_text()
