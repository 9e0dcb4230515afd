"""Fine-tunes of two processes on the CPU (gloo), against one process on the same batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeJob
from pydantic import ValidationError
from safetensors.torch import load_file

from lab.core.errors import BadInput
from lab.core.job import Partner
from lab.models.config import ModelConfig
from lab.tune.check import check
from lab.tune.plan import Weight, memory_bytes
from lab.tune.registry import tune_methods
from lab.tune.run import run
from lab.tune.spec import TuneSpec

pytestmark = pytest.mark.server

PARTNERS = (Partner("cpu:1"),)
LLAMA = ModelConfig(
    "LlamaForCausalLM", "llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, tied=False, quantisation=""
)


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


def test_two_processes_learn_what_one_does_and_one_goes_on_where_they_were(
    make_job: Callable[..., FakeJob], data: Path, tmp_path: Path
) -> None:
    recipe = spec(scheduler="constant", checkpoint_steps=2)
    one, two = (
        make_job(places={"talk": data}, folder=tmp_path / name, partners=partners)
        for name, partners in (("one", ()), ("two", PARTNERS))
    )
    one.folder.mkdir()
    two.folder.mkdir()
    alone = run(recipe, one)
    run(recipe.model_copy(update={"max_steps": 2}), two)
    for name in ("loss", "grad_norm"):
        expected = {step: figures(one, name)[step] for step in (1, 2)}
        assert figures(two, name) == pytest.approx(expected, rel=1e-4), name
    assert figures(two, "eval_loss")[0] == pytest.approx(figures(one, "eval_loss")[0], rel=1e-5)
    saved = {file.name for file in (two.folder / "checkpoints" / "checkpoint-2").iterdir()}
    assert saved == {file.name for file in (one.folder / "checkpoints" / "checkpoint-2").iterdir()}

    (two.folder / "plan.json").write_text((one.folder / "plan.json").read_text())
    rest = make_job(places={"talk": data}, folder=two.folder)
    finished = run(recipe, rest)
    expected = {step: figures(one, "loss")[step] for step in (3, 4)}
    assert figures(rest, "loss") == pytest.approx(expected, rel=1e-4)
    first, second = (weights(outcome.models[0].folder) for outcome in (alone, finished))
    assert set(first) == set(second)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(
    make_job: Callable[..., FakeJob], data: Path, tmp_path: Path
) -> None:
    recipe = spec(evaluations=0, scheduler="constant", checkpoint_steps=2)
    whole = make_job(places={"talk": data}, folder=tmp_path / "whole")
    whole.folder.mkdir()
    run(recipe, whole)
    (tmp_path / "begun").mkdir()
    run(
        recipe.model_copy(update={"max_steps": 2}), make_job(places={"talk": data}, folder=tmp_path / "begun")
    )
    (tmp_path / "begun" / "plan.json").write_text((whole.folder / "plan.json").read_text())
    rest = make_job(places={"talk": data}, folder=tmp_path / "begun", partners=PARTNERS)
    run(recipe, rest)
    expected = {step: figures(whole, "loss")[step] for step in (3, 4)}
    assert figures(rest, "loss") == pytest.approx(expected, rel=1e-4)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValidationError, match="Choose a batch that 6 divides"):
        spec(devices=3)
    with pytest.raises(ValidationError, match="Choose lora for several devices"):
        spec(devices=2, method="qlora")


def test_more_devices_than_there_are_are_refused_before_anything_is_queued(
    make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data})
    with pytest.raises(BadInput, match="wants 2 devices at once") as refused:
        check(spec(devices=2), job)
    assert refused.value.field == "devices"
    job.devices = 2
    found = check(spec(devices=2), job)
    assert found.need.devices == 2
    assert "on each of 2 devices" in found.words


def test_a_shared_model_takes_less_of_each_device() -> None:
    weight = Weight(LLAMA, parameters=7_000_000_000, dtype_bytes=2)
    needs = [memory_bytes(weight, tune_methods["lora"], 16, 1, devices=count) for count in (1, 2, 4)]
    frozen = weight.linear * 2
    assert needs[0] - needs[1] == pytest.approx(frozen * (1 / 2 - 2 / 32), rel=0.01)
    assert needs[1] - needs[2] == pytest.approx(frozen / 4, rel=0.01)
