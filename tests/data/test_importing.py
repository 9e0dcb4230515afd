"""An import writes the good rows in one form and lists the dataset, or leaves nothing behind."""

import errno
import json
from pathlib import Path

import pytest

from lab.core.errors import BadInput, Conflict
from lab.core.settings import Settings
from lab.core.store import Store, open_store
from lab.data import importing
from lab.data.importing import import_dataset, read_conversations
from lab.data.samples import sample_datasets

LINES = [
    {"instruction": "Hi", "output": "Hello"},
    {"messages": [{"role": "user", "content": "Né?"}, {"role": "assistant", "content": "Да"}]},
    {"instruction": "no answer"},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    settings = Settings(data=tmp_path / "lab")
    settings.make_folders()
    return open_store(settings)


@pytest.fixture
def brought(tmp_path: Path) -> Path:
    path = tmp_path / "brought.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_the_good_rows_are_stored_as_messages(store: Store, brought: Path, tmp_path: Path) -> None:
    row, verdict = import_dataset(brought, "mine", "local", store, tmp_path / "sets")
    stored = [json.loads(line) for line in (tmp_path / "sets/mine.jsonl").read_text().splitlines()]
    assert stored[1] == LINES[1]
    assert stored[0]["messages"][1] == {"role": "assistant", "content": "Hello"}
    assert verdict.bad == ((3, "output is missing"),)
    assert (row.name, row.owner, row.facts["rows"], row.facts["refused"]) == ("mine", "local", 2, 1)
    assert row.size_bytes == (tmp_path / "sets/mine.jsonl").stat().st_size
    assert store.datasets.get("mine") == row
    assert list(read_conversations(tmp_path / "sets/mine.jsonl")) == [line["messages"] for line in stored]


def test_a_name_is_used_once_and_the_first_dataset_stays(store: Store, brought: Path, tmp_path: Path) -> None:
    import_dataset(brought, "mine", "local", store, tmp_path / "sets")
    before = (tmp_path / "sets/mine.jsonl").read_bytes()
    brought.write_text(json.dumps(LINES[0]) + "\n")
    with pytest.raises(Conflict):
        import_dataset(brought, "mine", "local", store, tmp_path / "sets")
    assert (tmp_path / "sets/mine.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", "x" * 65, "..", "ä"])
def test_a_name_that_could_be_a_path_is_refused(
    name: str, store: Store, brought: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as refusal:
        import_dataset(brought, name, "local", store, tmp_path / "sets")
    assert refusal.value.field == "name"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"nonsense\n", b'{"instruction": "Hi"}\n', b"PK\x03\x04"])
def test_a_file_without_a_good_row_leaves_nothing_behind(
    content: bytes, store: Store, brought: Path, tmp_path: Path
) -> None:
    brought.write_bytes(content)
    with pytest.raises(BadInput):
        import_dataset(brought, "mine", "local", store, tmp_path / "sets")
    assert [file for file in (tmp_path / "sets").iterdir() if file.name != ".lock"] == []
    assert store.datasets.list() == []


def test_a_refusal_quotes_the_first_bad_lines(store: Store, brought: Path, tmp_path: Path) -> None:
    brought.write_text('nonsense\n{"instruction": "Hi"}\n')
    with pytest.raises(BadInput, match=r"line 1: not JSON.*line 2: output is missing"):
        import_dataset(brought, "mine", "local", store, tmp_path / "sets")


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(
    store: Store, brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(importing.os, "fsync", full)
    with pytest.raises(BadInput, match="No space left on device"):
        import_dataset(brought, "mine", "local", store, tmp_path / "sets")
    assert [file for file in (tmp_path / "sets").iterdir() if file.name != ".lock"] == []
    assert store.datasets.list() == []


def test_a_folder_that_cannot_be_written_is_one_sentence(store: Store, brought: Path, tmp_path: Path) -> None:
    (tmp_path / "sets").write_text("a file where the folder should be")
    with pytest.raises(BadInput, match="can't be written"):
        import_dataset(brought, "mine", "local", store, tmp_path / "sets")


@pytest.mark.parametrize("sample", sample_datasets(), ids=lambda sample: sample.name)
def test_every_row_of_the_datasets_that_ship_is_good(sample, store: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    row, verdict = import_dataset(sample.path, sample.name, "local", store, tmp_path / "sets")
    assert verdict.bad == ()
    assert verdict.odd == ()
    assert row.facts["rows"] >= 150
