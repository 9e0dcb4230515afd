"""A folder that is carried to another disk arrives whole or not at all."""

import hashlib
from pathlib import Path

import pytest

from lab.models.carrying import carry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_text("first")
    (folder / "inner" / "b").write_text("second")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    return shelf / "mine"


def sha256s(folder: Path) -> list[tuple[str, str]]:
    return [
        (file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.rglob("*")
        if file.is_file()
    ]


def test_it_arrives_with_all_that_is_in_it_and_leaves_nothing_behind(folder: Path, target: Path) -> None:
    carry(folder, target, sha256s(folder), lambda: None)
    assert (target / "a").read_text() == "first"
    assert (target / "inner" / "b").read_text() == "second"
    assert not folder.exists()
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_is_not_what_it_was_keeps_all_of_it_away(folder: Path, target: Path) -> None:
    known = sha256s(folder)
    (folder / "a").write_text("other")
    with pytest.raises(ValueError, match="a"):
        carry(folder, target, known, lambda: None)
    assert list(target.parent.iterdir()) == []
    assert folder.exists()


def test_who_gives_up_on_the_way_leaves_nothing_there(folder: Path, target: Path) -> None:
    def give_up() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry(folder, target, sha256s(folder), give_up)
    assert list(target.parent.iterdir()) == []
    assert folder.exists()


def test_a_planted_link_is_not_followed(folder: Path, target: Path) -> None:
    known = sha256s(folder)
    (folder / "a").unlink()
    (folder / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        carry(folder, target, known, lambda: None)
    assert list(target.parent.iterdir()) == []


def test_what_an_attempt_left_that_died_over_it_goes_and_another_model_s_stays(
    folder: Path, target: Path
) -> None:
    dead, live = target.parent / ".mine+x1.part", target.parent / ".mine.too+x1.part"
    dead.mkdir()
    live.mkdir()
    carry(folder, target, sha256s(folder), lambda: None)
    assert sorted(target.parent.iterdir()) == [live, target]
