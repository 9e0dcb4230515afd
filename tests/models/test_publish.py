"""A model is published whole, once, under one name, or not at all."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_models import write_adapter, write_model

from lab.core.errors import BadInput, Conflict, JobFailed
from lab.core.job import NewModel
from lab.models import publish
from lab.models.janitor import sweep
from lab.models.publish import finish, model_row, place, read_manifest


@pytest.fixture
def new(tmp_path: Path) -> NewModel:
    folder = write_model(tmp_path / "jobs" / "j1" / "work" / "out", shards=2)
    return NewModel("pirate", folder, "tuned", ("base",), "LoRA, rank 8", {"licence": "Apache-2.0"})


def again(new: NewModel, folder: Path) -> NewModel:
    shutil.copytree(new.folder, folder)
    return NewModel(new.name, folder, new.kind, new.parents, new.words, new.facts)


class TestFinish:
    def test_the_manifest_lists_every_file_with_size_and_sha256(self, new: NewModel) -> None:
        manifest = finish(new, "s" * 64, "j1", 2, {"torch": "2"})
        files = {file.path: (file.size, file.sha256) for file in manifest.files}
        assert set(files) == {file.name for file in new.folder.iterdir()} - {"manifest.json"}
        raw = (new.folder / "config.json").read_bytes()
        assert files["config.json"] == (len(raw), hashlib.sha256(raw).hexdigest())

    def test_the_manifest_reads_back_as_it_was_written(self, new: NewModel) -> None:
        manifest = finish(new, "s" * 64, "j1", 2)
        assert read_manifest(new.folder) == manifest
        raw = (new.folder / "manifest.json").read_bytes()
        assert manifest.sha256 == hashlib.sha256(raw).hexdigest()

    def test_facts_come_from_the_files_and_from_the_job(self, new: NewModel) -> None:
        facts = finish(new, "s" * 64, "j1", 1).facts
        assert (facts["licence"], facts["layers"], facts["architecture"]) == (
            "Apache-2.0",
            2,
            "LlamaForCausalLM",
        )

    def test_finishing_twice_writes_the_same_manifest(self, new: NewModel) -> None:
        assert finish(new, "s" * 64, "j1", 1) == finish(new, "s" * 64, "j1", 1)

    def test_merged_weights_may_do_without_a_tokenizer(self, new: NewModel) -> None:
        for file in new.folder.glob("tokenizer*"):
            file.unlink()
        assert finish(new, "s" * 64, "j1", 1).files

    def test_a_folder_that_is_no_whole_model_is_not_finished(self, new: NewModel) -> None:
        (new.folder / "model-00001-of-00002.safetensors").unlink()
        with pytest.raises(BadInput, match="is not there"):
            finish(new, "s" * 64, "j1", 1)
        assert not (new.folder / "manifest.json").exists()

    def test_a_planted_link_is_refused(self, new: NewModel) -> None:
        (new.folder / "notes.txt").symlink_to("/etc/passwd")
        with pytest.raises(BadInput, match="not a plain file"):
            finish(new, "s" * 64, "j1", 1)

    def test_a_full_disk_fails_the_job_and_leaves_no_manifest(
        self, new: NewModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(JobFailed, match="disk filled up") as caught:
            finish(new, "s" * 64, "j1", 1)
        assert caught.value.code == "disk_full"
        assert not list(new.folder.glob("*manifest*"))

    def test_other_disk_errors_stay_what_they_are(
        self, new: NewModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(handle: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            finish(new, "s" * 64, "j1", 1)


class TestPlace:
    def test_a_finished_folder_appears_under_its_name(self, new: NewModel, tmp_path: Path) -> None:
        manifest = finish(new, "s" * 64, "j1", 1)
        place(new.folder, tmp_path / "models" / "pirate")
        assert read_manifest(tmp_path / "models" / "pirate") == manifest
        assert not new.folder.exists()

    def test_a_model_of_another_job_is_never_replaced(self, new: NewModel, tmp_path: Path) -> None:
        other = again(new, tmp_path / "jobs" / "j2")
        finish(new, "s" * 64, "j1", 1)
        place(new.folder, tmp_path / "models" / "pirate")
        finish(other, "s" * 64, "j2", 1)
        with pytest.raises(Conflict, match="already a model named 'pirate'"):
            place(other.folder, tmp_path / "models" / "pirate")
        assert read_manifest(tmp_path / "models" / "pirate").job_id == "j1"

    def test_after_a_crash_the_same_job_finds_its_model_in_place(self, new: NewModel, tmp_path: Path) -> None:
        second = again(new, tmp_path / "jobs" / "again")
        finish(new, "s" * 64, "j1", 1)
        place(new.folder, tmp_path / "models" / "pirate")
        finish(second, "s" * 64, "j1", 2)
        place(second.folder, tmp_path / "models" / "pirate")
        assert read_manifest(tmp_path / "models" / "pirate").attempt == 1
        assert not second.folder.exists()

    def test_a_planted_link_is_not_followed(self, new: NewModel, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "pirate").symlink_to(elsewhere)
        finish(new, "s" * 64, "j1", 1)
        with pytest.raises(Conflict):
            place(new.folder, tmp_path / "models" / "pirate")
        assert not list(elsewhere.iterdir())

    def test_a_name_taken_in_the_last_moment_is_a_conflict(
        self, new: NewModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finish(new, "s" * 64, "j1", 1)
        write_model(tmp_path / "models" / "pirate")
        monkeypatch.setattr(os.path, "lexists", lambda path: False)
        with pytest.raises(Conflict):
            place(new.folder, tmp_path / "models" / "pirate")


def test_the_row_says_what_the_manifest_says(new: NewModel) -> None:
    manifest = finish(new, "s" * 64, "j1", 1)
    row = model_row(manifest, "local")
    assert (row.name, row.kind, row.parents, row.owner) == ("pirate", "tuned", ("base",), "local")
    assert row.manifest_sha256 == manifest.sha256
    assert row.size_bytes == sum(
        file.stat().st_size for file in new.folder.iterdir() if file.name != "manifest.json"
    )


def test_an_adapter_is_published_like_any_model(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", base="base")
    facts = finish(NewModel("a", folder, "adapter", ("base",)), "s" * 64, "j", 1).facts
    assert (facts["base"], facts["rank"]) == ("base", 4)


class TestSweep:
    @pytest.fixture
    def rooms(self, tmp_path: Path, new: NewModel) -> tuple[Path, Path]:
        models = tmp_path / "models"
        finish(new, "s" * 64, "j1", 1)
        (tmp_path / "jobs" / "j1" / "attempt-1.log").write_text("hello")
        place(again(new, tmp_path / "copy").folder, models / "unlisted")
        return models, tmp_path / "jobs"

    def sweep(self, rooms: tuple[Path, Path], known: set[str], live: set[str], age: float = -60) -> list[str]:
        return sweep(*rooms, known_names=known, live_jobs=live, older_than=age)

    def test_a_folder_that_nobody_lists_goes_to_the_trash(self, rooms: tuple[Path, Path]) -> None:
        assert self.sweep(rooms, set(), set()) == ["unlisted"]
        assert not (rooms[0] / "unlisted").exists()

    def test_a_listed_folder_stays(self, rooms: tuple[Path, Path]) -> None:
        assert self.sweep(rooms, {"unlisted"}, set()) == []
        assert (rooms[0] / "unlisted").is_dir()

    def test_a_folder_whose_job_lives_waits_for_it(self, rooms: tuple[Path, Path]) -> None:
        assert self.sweep(rooms, set(), {"j1"}) == []
        assert (rooms[1] / "j1" / "work").is_dir()

    def test_what_is_young_stays(self, rooms: tuple[Path, Path]) -> None:
        assert self.sweep(rooms, set(), set(), age=3600) == []

    def test_an_ended_jobs_work_goes_and_its_log_stays(self, rooms: tuple[Path, Path]) -> None:
        self.sweep(rooms, set(), set())
        assert not (rooms[1] / "j1" / "work").exists()
        assert (rooms[1] / "j1" / "attempt-1.log").read_text() == "hello"


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / publish.MANIFEST).write_text(json.dumps({"name": "x"}))
    with pytest.raises(BadInput, match="no manifest"):
        read_manifest(tmp_path)
