"""The command that looks into models: a table by layer, sentences, and a code for what can't be."""

from pathlib import Path

import pytest
from fakes import CPU
from tiny_models import Bench

from lab.cli import Machine, main
from lab.models.runtime import ModelCache

MACHINE = Machine(lambda settings: [CPU], lambda error: "The disk is full.", ModelCache)


@pytest.fixture(autouse=True)
def no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "no-lab"))
    monkeypatch.chdir(tmp_path)


def test_inspect_prints_a_line_for_each_layer_and_the_sentences(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["inspect", str(bench.pirate), str(bench.sums), "--base", str(bench.base), "--exact"]
    assert main(command, MACHINE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Against {bench.base}. A is {bench.pirate}, B is {bench.sums}."
    assert [line[:7] for line in lines[2:4]] == ["layer 0", "layer 1"]
    assert any("moved in unrelated directions" in line for line in lines)
    assert any(line.startswith("! DARE at a drop rate of 0.9 or more is likely to fail") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_inspect_after_a_merge_measures_by_the_parents(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bench.base), "--base", str(bench.pirate), "--after"], MACHINE) == 0
    out = capsys.readouterr().out
    assert "|d|/|x| A" in out
    assert f"{bench.pirate} is 26 % from {bench.base}." in out


def test_models_that_have_nothing_in_common_are_bad_input(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bench.wide), "--base", str(bench.base)], MACHINE) == 2
    assert "no tensor of the same name and shape" in capsys.readouterr().err
    assert main(["inspect", "gone", "--base", str(bench.base)], MACHINE) in (1, 2)
    assert "gone" in capsys.readouterr().err
