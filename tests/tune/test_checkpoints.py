"""A checkpoint is trusted only when every file is as it was finished."""

from pathlib import Path

import pytest

from lab.tune.checkpoints import COMPLETE, is_complete, latest_complete, mark_complete


def write_checkpoint(folder: Path, step: int, *, finished: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"w" * 100)
    (checkpoint / "state").write_bytes(b"s" * 10)
    if finished:
        mark_complete(checkpoint)
    return checkpoint


def test_the_newest_by_number_is_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 9)
    newest = write_checkpoint(tmp_path, 10)
    assert latest_complete(tmp_path) == newest


def test_a_half_written_checkpoint_is_deleted_and_the_one_before_taken(tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path, 5)
    half = write_checkpoint(tmp_path, 10, finished=False)
    assert latest_complete(tmp_path) == good
    assert not half.exists()


@pytest.mark.parametrize(
    "harm", ["shorter", "changed", "gone", "list cut off", "list is no table", "list empty"]
)
def test_a_checkpoint_that_was_harmed_is_not_trusted(harm: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 5)
    if harm == "gone":
        (checkpoint / "weights").unlink()
    elif harm.startswith("list"):
        lists = {"list cut off": '{"weights": [100', "list is no table": "[1]", "list empty": "{}"}
        (checkpoint / COMPLETE).write_text(lists[harm])
    else:
        (checkpoint / "weights").write_bytes(b"w" * 99 if harm == "shorter" else b"x" * 100)
    assert not is_complete(checkpoint)
    assert latest_complete(tmp_path) is None


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest_complete(tmp_path / "none") is None
