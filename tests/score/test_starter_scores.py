"""The pinned figures of the starter model in float32, which lm-eval 0.4.13 gives for the same files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import CPU, FakeJob

from lab.score.run import run
from lab.score.spec import ScoreSpec

pytestmark = pytest.mark.starter


@pytest.fixture(scope="session")
def summary(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Score the starter model once on the sets that ship."""
    folder = tmp_path_factory.mktemp("starter-scores")
    device = replace(CPU, dtype="bfloat16")  # the spec's float32 comes before the device's choice
    job = FakeJob(root=folder, places={"starter": starter_folder}, folder=folder, device=device)
    return dict(run(ScoreSpec(models=("starter",)), job).summary)


def row_of(summary: dict[str, Any], metric: str) -> dict[str, Any]:
    (row,) = [row for row in summary["scores"] if row["metric"] == metric]
    return row


def test_accuracy_is_the_pinned_one_to_the_item(summary):
    row = row_of(summary, "accuracy")
    assert (row["value"], row["n"]) == (0.675, 40)


def test_normalised_accuracy_is_the_pinned_one_to_the_item(summary):
    row = row_of(summary, "accuracy_normalised")
    assert (row["value"], row["n"]) == (0.55, 40)


def test_bits_per_byte_is_the_pinned_one(summary):
    row = row_of(summary, "bits_per_byte")
    assert row["value"] == pytest.approx(0.8836306745803914, abs=1e-6)
    assert row["n"] == 5
    assert row["low"] < row["value"] < row["high"]
