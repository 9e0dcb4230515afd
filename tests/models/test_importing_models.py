"""A folder becomes a model of the lab only after files, shapes and every weight were looked at."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeJob, FakeShelf
from tiny_models import Bench, Shape, weights_of, write_adapter, write_model

from lab.core.errors import BadInput, Cancelled, JobFailed
from lab.models import importing
from lab.models.importing import check, licence_of, run
from lab.models.inspection import check_model_folder
from lab.models.spec import ImportSpec

MakeJob = Callable[..., FakeJob]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "source", shards=2)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "notes.txt").write_text("not part of it")
    return folder


class TestCheck:
    def test_a_good_folder_is_described(self, source: Path, shelf: FakeShelf) -> None:
        assert check(ImportSpec(path=str(source), name="mine"), shelf).layers == 2

    @pytest.mark.parametrize("path", ["/nowhere/at/all", "relative/nowhere", "~nobody-of-that-name/x"])
    def test_a_wrong_path_is_told_at_its_field(self, path: str, shelf: FakeShelf) -> None:
        with pytest.raises(BadInput) as caught:
            check(ImportSpec(path=path, name="mine"), shelf)
        assert caught.value.field == "path"

    def test_a_folder_that_is_no_model_is_refused(self, tmp_path: Path, shelf: FakeShelf) -> None:
        with pytest.raises(BadInput, match="holds no model") as caught:
            check(ImportSpec(path=str(tmp_path), name="mine"), shelf)
        assert caught.value.field == "path"

    def test_a_disk_without_room_for_the_copy_is_refused(self, source: Path, bench: Bench) -> None:
        with pytest.raises(BadInput, match="copy needs"):
            check(ImportSpec(path=str(source), name="mine"), FakeShelf(bench.root, free_disk=1000))

    def test_an_adapter_needs_its_base_in_the_lab(self, tmp_path: Path, shelf: FakeShelf) -> None:
        adapter = write_adapter(tmp_path / "a", base="Somebody/Model")
        with pytest.raises(BadInput, match="'Somebody/Model' is not in the lab") as caught:
            check(ImportSpec(path=str(adapter), name="mine"), shelf)
        assert caught.value.field == "base"
        check(ImportSpec(path=str(adapter), name="mine", base="base"), shelf)

    def test_an_adapter_of_another_shape_is_refused(self, tmp_path: Path, shelf: FakeShelf) -> None:
        adapter = write_adapter(tmp_path / "a", base="base")
        with pytest.raises(BadInput, match="in wide it is"):
            check(ImportSpec(path=str(adapter), name="mine", base="wide"), shelf)

    def test_the_base_of_an_adapter_cannot_be_an_adapter(self, tmp_path: Path, shelf: FakeShelf) -> None:
        adapter = write_adapter(tmp_path / "a", base="adapter")
        with pytest.raises(BadInput, match="adapter itself"):
            check(ImportSpec(path=str(adapter), name="mine"), shelf)

    @pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, "...", "sp ace", "n\u0430me"])
    def test_a_name_that_is_no_name_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError):
            ImportSpec(path="/x", name=name)


class TestRun:
    def test_the_copy_is_the_same_model_and_nothing_else(self, source: Path, make_job: MakeJob) -> None:
        [new] = run(ImportSpec(path=str(source), name="mine"), make_job()).models
        assert check_model_folder(new.folder) == check_model_folder(source)
        assert {file.name for file in source.iterdir()} - {file.name for file in new.folder.iterdir()} == {
            "notes.txt"
        }
        assert (new.kind, new.facts["licence"], new.facts["origin"]) == ("base", "apache-2.0", str(source))

    def test_an_adapter_is_kept_with_the_labs_name_of_its_base(
        self, tmp_path: Path, make_job: MakeJob
    ) -> None:
        adapter = write_adapter(tmp_path / "a", base="Somebody/Model")
        [new] = run(ImportSpec(path=str(adapter), name="mine", base="base"), make_job()).models
        assert (new.kind, new.parents) == ("adapter", ("base",))
        config = json.loads((new.folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "base"

    def test_weights_that_are_no_numbers_are_refused_by_tensor(
        self, tmp_path: Path, make_job: MakeJob
    ) -> None:
        weights = weights_of(Shape(), 0)
        weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
        folder = write_model(tmp_path / "sick", weights=weights)
        with pytest.raises(BadInput, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight': it holds NaN"):
            run(ImportSpec(path=str(folder), name="mine"), make_job())

    def test_a_second_attempt_goes_on_with_the_files_copied_whole(
        self, source: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(Cancelled):
            run(ImportSpec(path=str(source), name="mine"), make_job(cancel_at=3))
        copied = []
        plain = importing._copy

        def note(source: Path, target: Path, job: FakeJob) -> None:
            copied.append(source.name)
            plain(source, target, job)

        monkeypatch.setattr(importing, "_copy", note)
        [new] = run(ImportSpec(path=str(source), name="mine"), make_job()).models
        assert "config.json" not in copied
        assert check_model_folder(new.folder).layers == 2
        assert not list(new.folder.glob("*.part"))

    def test_a_full_disk_fails_the_job_and_leaves_no_part(
        self, source: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = make_job()

        def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(job, "breathe", full)
        with pytest.raises(JobFailed) as caught:
            run(ImportSpec(path=str(source), name="mine"), job)
        assert caught.value.code == "disk_full"
        assert not list((job.folder / "model").iterdir())


def test_a_model_without_card_has_an_unknown_licence(tiny: Path) -> None:
    assert licence_of(tiny) == "unknown"
