"""The streaming benchmark runs and compares like with like."""

from pathlib import Path

from benchmarks.streaming import Setting, measure


def test_both_ways_are_measured_on_the_same_model(tiny: Path) -> None:
    rows = measure(Setting(tiny, tokens=6, rounds=1, columns=(2,)))
    assert [row.what for row in rows][2:] == ["streamed / bare", "2 columns side by side, together"]
    assert all(row.measured for row in rows)
