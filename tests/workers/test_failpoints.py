"""Failpoints strike where and when they are told to, counted over all processes."""

import errno
from pathlib import Path

import pytest

from lab.core.errors import BadInput
from workers.failpoints import Failpoints


def test_without_a_setting_nothing_happens(tmp_path: Path) -> None:
    Failpoints.parse("", tmp_path).reach("claimed")
    assert list(tmp_path.iterdir()) == []


def test_it_strikes_at_its_own_place_only(tmp_path: Path) -> None:
    points = Failpoints.parse("worked:raise", tmp_path)
    points.reach("claimed")
    with pytest.raises(RuntimeError, match="failpoint worked"):
        points.reach("worked")


def test_the_nth_visit_is_counted_across_processes(tmp_path: Path) -> None:
    first, second = (Failpoints.parse("placed:2:enospc", tmp_path) for _ in range(2))
    first.reach("placed")
    with pytest.raises(OSError) as caught:
        second.reach("placed")
    assert caught.value.errno == errno.ENOSPC
    first.reach("placed")  # the third


@pytest.mark.parametrize("deed", ["eio", "erofs"])
def test_a_disk_can_answer_with_an_error(deed: str, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        Failpoints.parse(f"packed:{deed}", tmp_path).reach("packed")
    assert caught.value.errno == getattr(errno, deed.upper())


def test_after_a_nap_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    Failpoints.parse("placed:nap", tmp_path).reach("placed")
    assert len(slept) == 1


@pytest.mark.parametrize(
    "text", ["nowhere:kill", "placed", "placed:explode", "placed:x:kill", "placed:-1:kill", "a:b:c:d"]
)
def test_a_setting_that_means_nothing_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="LABFAIL"):
        Failpoints.parse(text, tmp_path)
