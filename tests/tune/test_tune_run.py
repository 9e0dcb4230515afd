"""Real fine-tunes of the tiny model: what comes out, what is told, how they end and go on."""

import errno
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import FakeJob
from safetensors import SafetensorError
from safetensors.torch import load_file

from lab.core.errors import Cancelled, JobFailed, Released
from lab.core.job import Device
from lab.tune.adapters import load_base
from lab.tune.run import run
from lab.tune.spec import TuneSpec


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    rows = [{"instruction": f"say {n}", "output": f"arr {n}!"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spec(**values: Any) -> TuneSpec:
    usual = {"batch": 8, "max_steps": 8, "rank": 8, "learning_rate": 5e-3, "evaluations": 1}
    return TuneSpec(**{"model": "base", "dataset": "talk", "name": "mate", **usual, **values})


def losses(job: FakeJob) -> dict[int, float]:
    """Return the training loss of each step, the last word of each step counting."""
    return {event["step"]: event["values"]["loss"] for event in job.of("metric") if "loss" in event["values"]}


@dataclass
class Interrupted(FakeJob):
    """Raises an error at the nth breath after training began."""

    error: Exception = field(default_factory=lambda: RuntimeError("the process died"))
    at: int = 0
    seen: int = 0

    def breathe(self) -> None:
        if losses(self) or self.seen:
            self.seen += 1
            if self.seen >= self.at:
                raise self.error


def interrupted(data: Path, job: FakeJob, error: Exception, at: int) -> Interrupted:
    return Interrupted(root=job.root, places={"talk": data}, folder=job.folder, error=error, at=at)


def test_the_loss_falls_and_an_adapter_comes_out(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    outcome = run(spec(max_steps=16), job)
    curve = losses(job)
    assert sorted(curve) == list(range(1, 17))
    assert curve[16] < curve[1] - 0.5
    assert outcome.summary["eval_loss"] < outcome.summary["eval_loss_before"] - 0.5
    [adapter] = outcome.models
    assert (adapter.name, adapter.kind, adapter.parents) == ("mate", "adapter", ("base",))
    files = {file.name for file in adapter.folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert not any(name.endswith((".bin", ".pt", ".md")) for name in files)
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert str(job.root) not in json.dumps(config)


def test_each_step_tells_its_figures_and_the_time_left(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    outcome = run(spec(), job)
    figures = {name for event in job.of("metric") for name in event["values"]}
    assert figures == {"loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second"}
    assert job.of("metric")[0] == {"step": 0, "values": {"eval_loss": outcome.summary["eval_loss_before"]}}
    last = job.of("progress")[-1]
    assert (last["fraction"], last["seconds_left"]) == (1.0, 0.0)
    assert outcome.summary["device"] == job.device.words
    assert {"torch", "transformers", "peft"} <= set(outcome.summary["versions"])
    json.dumps(dict(outcome.summary), allow_nan=False)


def test_a_run_that_died_goes_on_with_the_very_same_losses(
    make_job: Callable[..., FakeJob], data: Path, tmp_path: Path
) -> None:
    recipe = spec(dropout=0.1, neftune_alpha=5, checkpoint_steps=2, max_steps=9, evaluations=2)
    whole = make_job(places={"talk": data}, folder=tmp_path / "whole")
    whole.folder.mkdir()
    uninterrupted = run(recipe, whole)
    job = make_job(places={"talk": data})
    dying = interrupted(data, job, RuntimeError("the process died"), at=9)
    with pytest.raises(RuntimeError, match="died"):
        run(recipe, dying)
    kept = sorted(folder.name for folder in (job.folder / "checkpoints").iterdir())
    assert kept
    (job.folder / "checkpoints" / "checkpoint-999").mkdir()  # what a kill in the middle of writing leaves
    resumed = run(recipe, job)
    assert "Going on from the checkpoint" in job.of("note")[0]["text"]
    assert {**losses(dying), **losses(job)} == losses(whole)
    one, other = (
        load_file(done.models[0].folder / "adapter_model.safetensors") for done in (resumed, uninterrupted)
    )
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_that_died_after_its_last_step_is_not_trained_again(
    make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data})
    first = run(spec(), job)
    before = load_file(first.models[0].folder / "adapter_model.safetensors")
    job.events.clear()
    again = run(spec(), job)
    after = load_file(again.models[0].folder / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses(job) == {}
    assert again.summary["steps"] == 8


def test_a_released_run_keeps_a_checkpoint_of_the_step_it_was_in(
    make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data})
    leaving = interrupted(data, job, Released("the worker shuts down"), at=2)
    with pytest.raises(Released):
        run(spec(evaluations=0), leaving)
    step = max(losses(leaving))
    assert step < 8
    run(spec(evaluations=0), job)
    assert min(losses(job)) == step + 1


def test_a_cancelled_run_ends_at_once(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    cancelled = interrupted(data, job, Cancelled("asked"), at=2)
    with pytest.raises(Cancelled):
        run(spec(evaluations=0), cancelled)
    assert len(losses(cancelled)) < 8


def test_stop_and_keep_publishes_what_there_is(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data}, stop_at=60)
    outcome = run(spec(max_steps=500), job)
    assert outcome.stopped_early
    assert 1 <= outcome.summary["steps"] < 500
    assert outcome.summary["eval_loss"] is not None
    assert (outcome.models[0].folder / "adapter_model.safetensors").is_file()


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    make_job: Callable[..., FakeJob], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    true_loss = Trainer.compute_loss

    def diverging(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        loss = true_loss(trainer, *args, **kwargs)
        return loss * math.nan if trainer.state.global_step >= 4 and trainer.model.training else loss

    monkeypatch.setattr(Trainer, "compute_loss", diverging)
    job = make_job(places={"talk": data})
    with pytest.raises(JobFailed, match="step 5") as failure:
        run(spec(checkpoint_steps=2), job)
    assert failure.value.code == "nan_loss"
    assert "of step 4, is kept" in str(failure.value)
    assert (job.folder / "checkpoints" / "checkpoint-4" / "complete.json").is_file()


def test_running_out_of_memory_names_the_knob_to_turn(
    make_job: Callable[..., FakeJob], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    def full(*_args: Any, **_kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Trainer, "training_step", full)
    with pytest.raises(JobFailed, match="micro-batch of 4") as failure:
        run(spec(), make_job(places={"talk": data}))
    assert failure.value.code == "out_of_memory"


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 30),
        (SafetensorError("No space left on device (os error 28)"), 1 << 30),
        (RuntimeError("PytorchStreamWriter failed writing file"), 0),
    ],
)
def test_a_full_disk_ends_the_run_in_one_sentence(
    error: Exception, free: int, make_job: Callable[..., FakeJob], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    def full(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", full)
    monkeypatch.setattr("lab.tune.run.shutil.disk_usage", lambda _folder: SimpleNamespace(free=free))
    with pytest.raises(JobFailed) as failure:
        run(spec(max_steps=1), make_job(places={"talk": data}))
    assert failure.value.code == "disk_full"


@pytest.mark.parametrize(("method", "model"), [("lora", "base"), ("qlora", "wide")])
def test_the_full_model_is_the_base_plus_the_adapter(
    method: str, model: str, make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data})
    outcome = run(spec(method=method, model=model, full_model=True, max_steps=6), job)
    adapter, full = outcome.models
    assert (full.name, full.kind, full.parents) == ("mate-full", "tuned", (model, "mate"))
    base = load_file(job.root / model / "model.safetensors")
    delta = load_file(adapter.folder / "adapter_model.safetensors")
    whole = load_file(full.folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a = delta[f"base_model.model.{name}.lora_A.weight"]
    b = delta[f"base_model.model.{name}.lora_B.weight"]
    torch.testing.assert_close(whole[f"{name}.weight"], base[f"{name}.weight"] + 2 * b @ a)
    assert torch.equal(whole["model.norm.weight"], base["model.norm.weight"])
    assert not json.loads((full.folder / "config.json").read_text()).get("quantization_config")


def test_qlora_keeps_its_gradients_after_an_evaluation(
    make_job: Callable[..., FakeJob], data: Path, bench: Any
) -> None:
    from lab.tune.registry import tune_methods

    device = Device("cpu", "bfloat16", "CPU", 4 << 30)
    torch.manual_seed(0)
    model = tune_methods["qlora"].prepare(bench.wide, spec(method="qlora", model="wide"), device)
    assert any("Linear4bit" in type(module).__name__ for module in model.modules())
    ids = torch.arange(3, 40).view(1, -1)

    def gradient() -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return next(p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name)

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    assert torch.equal(before, gradient())


def test_the_run_computes_in_the_precision_of_its_device(
    make_job: Callable[..., FakeJob], data: Path
) -> None:
    job = make_job(places={"talk": data}, device=Device("cpu", "bfloat16", "CPU, bfloat16", 4 << 30))
    outcome = run(spec(max_steps=3), job)
    assert outcome.summary["dtype"] == "bfloat16"
    weights = load_file(outcome.models[0].folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_rows_cut_at_the_limit_are_noted(make_job: Callable[..., FakeJob], data: Path) -> None:
    job = make_job(places={"talk": data})
    outcome = run(spec(max_steps=2, max_length=30), job)
    assert outcome.summary["rows_cut"] == 40
    assert "rows are cut at 30 tokens" in job.of("note")[0]["text"]


def noise_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    table = model.get_input_embeddings()
    return (table(ids) - table.weight[ids]).detach()


def test_neftune_noise_has_the_size_of_the_paper_and_is_gone_after_a_failure(
    make_job: Callable[..., FakeJob], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|noise| is at most alpha / sqrt(L d), uniform; none when evaluating, none after the run."""
    from transformers import Trainer

    seen: dict[str, Any] = {}

    def look(trainer: Any, model: Any, inputs: Any, *_args: Any, **_kwargs: Any) -> Any:
        ids = inputs["input_ids"]
        model.train()
        seen["train"], seen["shape"] = noise_of(model, ids), ids.shape
        model.eval()
        seen["eval"] = noise_of(model, ids)
        model.train()
        seen["model"], seen["ids"] = model, ids
        raise RuntimeError("enough")

    monkeypatch.setattr(Trainer, "training_step", look)
    with pytest.raises(RuntimeError, match="enough"):
        run(spec(neftune_alpha=5), make_job(places={"talk": data}))
    bound = 5 / math.sqrt(seen["shape"][1] * 64)
    assert seen["train"].abs().max() <= bound
    assert seen["train"].abs().max() > 0.99 * bound
    assert seen["train"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert seen["eval"].abs().max() == 0
    assert noise_of(seen["model"], seen["ids"]).abs().max() == 0


def test_an_adapter_starts_where_the_base_is(bench: Any) -> None:
    from lab.tune.adapters import attach_lora

    base = load_base(bench.base, "float32").eval()
    ids = torch.arange(3, 20).view(1, -1)
    with torch.no_grad():
        before = base(input_ids=ids).logits.clone()
        after = attach_lora(base, spec()).eval()(input_ids=ids).logits
    assert torch.equal(before, after)
