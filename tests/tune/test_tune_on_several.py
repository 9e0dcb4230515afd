"""Fine-tunes of two processes on the CPU (gloo), against one process on the same batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeJob
from safetensors.torch import load_file

from lab.core.job import Partner
from lab.tune.run import run
from lab.tune.spec import TuneSpec

PARTNERS = (Partner("cpu:1"),)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    rows = [{"instruction": f"say {n}", "output": f"arr {n}!" * (1 + n % 3)} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(**values: Any) -> TuneSpec:
    usual = {"batch": 4, "micro_batch": 2, "max_steps": 4, "rank": 8, "learning_rate": 5e-3, "evaluations": 1}
    return TuneSpec(**{"model": "base", "dataset": "talk", "name": "mate", "held_out": 4, **usual, **values})


def figures(job: FakeJob, name: str) -> dict[int, float]:
    """Return one figure by step, the last word of each step counting."""
    return {event["step"]: event["values"][name] for event in job.of("metric") if name in event["values"]}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_two_processes_learn_what_one_does(
    make_job: Callable[..., FakeJob], data: Path, tmp_path: Path
) -> None:
    one = make_job(places={"talk": data}, folder=tmp_path / "one")
    two = make_job(places={"talk": data}, folder=tmp_path / "two", partners=PARTNERS)
    one.folder.mkdir()
    two.folder.mkdir()
    alone, together = run(spec(), one), run(spec(), two)
    for name in ("loss", "eval_loss", "grad_norm"):
        assert figures(two, name) == pytest.approx(figures(one, name), rel=1e-4), name
    first, second = (weights(outcome.models[0].folder) for outcome in (alone, together))
    assert set(first) == set(second)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_a_run_begun_by_two_processes_goes_on_with_one_and_the_other_way_round(
    make_job: Callable[..., FakeJob], data: Path, tmp_path: Path
) -> None:
    recipe = spec(max_steps=2, evaluations=0, scheduler="constant", checkpoint_steps=2, seed=7)
    longer = recipe.model_copy(update={"max_steps": 4})
    whole = make_job(places={"talk": data}, folder=tmp_path / "whole")
    whole.folder.mkdir()
    run(longer, whole)
    for first, second in ((PARTNERS, ()), ((), PARTNERS)):
        folder = tmp_path / f"begun-by-{1 + len(first)}"
        folder.mkdir()
        run(recipe, make_job(places={"talk": data}, folder=folder, partners=first))
        saved = {file.name for file in (folder / "checkpoints" / "checkpoint-2").iterdir()}
        assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= saved
        assert not any(name.startswith("rng_state_") for name in saved)
        (folder / "plan.json").write_text((whole.folder / "plan.json").read_text())
        rest = make_job(places={"talk": data}, folder=folder, partners=second)
        run(longer, rest)
        assert min(figures(rest, "loss")) == 3
        assert figures(rest, "loss") == pytest.approx(
            {3: figures(whole, "loss")[3], 4: figures(whole, "loss")[4]}, rel=1e-4
        )
