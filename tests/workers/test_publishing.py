"""A shipment that was written down is taken up again where an attempt left it."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.core.errors import Conflict, JobFailed
from lab.core.job import NewModel, Outcome
from lab.models.publish import Manifest
from workers.publishing import NOTE, Shipment

ROW: Any = SimpleNamespace(id="job1", attempt=1, spec_sha256="ab" * 32)


def outcome(work: Path, *names: str) -> Outcome:
    models = []
    for name in names:
        folder = work / f"built-{name}"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_text(name)
        models.append(NewModel(name, folder, "merge", words="by hand"))
    return Outcome(tuple(models), {"scores": [{"model": "a", "value": 1.0}]}, stopped_early=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def pack(made: Outcome, work: Path) -> Shipment:
    return Shipment.pack(made, ROW, work, breathe=lambda: None)


def test_models_are_placed_and_listed_with_their_manifest(work: Path, shelf: Path) -> None:
    shipment = pack(outcome(work, "a", "b"), work)
    rows = shipment.place(shelf, "me")
    assert [(row.name, row.owner, row.job_id, row.words) for row in rows] == [
        ("a", "me", "job1", "by hand"),
        ("b", "me", "job1", "by hand"),
    ]
    assert sorted(folder.name for folder in shelf.iterdir()) == ["a", "b"]
    assert shipment.scores == ({"model": "a", "value": 1.0},)


def test_an_attempt_that_died_between_two_renames_is_taken_up(work: Path, shelf: Path) -> None:
    packed = pack(outcome(work, "a", "b"), work)
    (work / "built-a").rename(shelf / "a")
    found = Shipment.left_by_an_earlier_attempt(work, shelf)
    assert found == packed
    assert [row.name for row in found.place(shelf, "me")] == ["a", "b"]
    assert [row.manifest_sha256 for row in found.place(shelf, "me")] == [
        parcel.manifest_sha256 for parcel in packed.parcels
    ]


def test_a_shipment_whose_folder_is_gone_is_forgotten(work: Path, shelf: Path) -> None:
    pack(outcome(work, "a"), work)
    (work / "built-a" / "manifest.json").unlink()
    assert Shipment.left_by_an_earlier_attempt(work, shelf) is None
    assert not (work / NOTE).exists()


def test_without_models_nothing_is_written_down(work: Path, shelf: Path) -> None:
    pack(outcome(work), work)
    assert Shipment.left_by_an_earlier_attempt(work, shelf) is None


def test_a_name_that_another_model_took_is_a_conflict(work: Path, shelf: Path) -> None:
    (shelf / "a").mkdir()
    (shelf / "a" / "someone-elses").touch()
    with pytest.raises(Conflict, match="already a model named 'a'"):
        pack(outcome(work, "a"), work).place(shelf, "me")
    assert (shelf / "a" / "someone-elses").exists()


def test_a_shipment_of_which_a_file_was_changed_is_forgotten_and_leaves_the_shelf(
    work: Path, shelf: Path
) -> None:
    packed = pack(outcome(work, "a", "b"), work)
    (work / "built-a").rename(shelf / "a")
    (shelf / "a" / "weights.bin").write_text("?")
    assert Shipment.left_by_an_earlier_attempt(work, shelf, "job1") is None
    assert [folder.name for folder in shelf.iterdir()] == [".trash"]
    assert packed.parcels[1].is_in(work / "built-b")


def test_a_model_that_was_changed_after_it_was_sealed_is_not_placed(work: Path, shelf: Path) -> None:
    packed = pack(outcome(work, "a"), work)
    (work / "built-a" / "manifest.json").write_text("{}")
    with pytest.raises(JobFailed, match="not what was written") as failed:
        packed.place(shelf, "me")
    assert failed.value.code == "damaged"
    assert list(shelf.iterdir()) == []


def test_what_a_failed_job_has_placed_is_taken_back_and_nothing_else(work: Path, shelf: Path) -> None:
    pack(outcome(work, "a", "b"), work).place(shelf, "me")
    shutil.rmtree(shelf / "b")
    (shelf / "b").mkdir()
    (shelf / "b" / "someone-elses").touch()
    Shipment.take_back(work, shelf)
    assert sorted(folder.name for folder in shelf.iterdir()) == [".trash", "b"]


@pytest.mark.parametrize("is_leftover", [True, False])
def test_what_a_dead_job_left_in_the_place_gives_way(work: Path, shelf: Path, is_leftover: bool) -> None:
    other = work / "other"
    other.mkdir()
    Shipment.pack(
        outcome(other, "a"), SimpleNamespace(**{**vars(ROW), "id": "dead"}), other, lambda: None
    ).place(shelf, "me")
    asked: list[str] = []

    def leftover(manifest: Manifest) -> bool:
        asked.append(manifest.job_id)
        return is_leftover

    packed = pack(outcome(work, "a"), work)
    if is_leftover:
        assert [row.job_id for row in packed.place(shelf, "me", is_leftover=leftover)] == ["job1"]
    else:
        with pytest.raises(Conflict):
            packed.place(shelf, "me", is_leftover=leftover)
    assert asked == ["dead"]
