"""Recipes of several documents: order, steps, restart, and what they leave behind."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_merge import TinyJob, TinyShelf, write_shards

from lab.core.errors import BadInput, Cancelled
from lab.merge.check import check
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.run import run

TWO_STEPS = """\
merge_method: ties
base_model: base
models:
  - {model: halves, parameters: {weight: 1.0}}
  - {model: c, parameters: {weight: 0.5}}
---
name: halves
merge_method: linear
models:
  - {model: nearly, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.5}}
dtype: float32
---
name: nearly
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.9}}
dtype: float32
"""


def test_the_order_is_worked_out_and_the_unnamed_document_is_the_result():
    spec = read_recipe(TWO_STEPS, name="out")
    assert [step.name for step in spec.intermediates] == ["nearly", "halves"]
    assert (spec.name, spec.method) == ("out", "ties")
    assert spec.models_used() == ("base", "a", "b", "c")
    assert spec.models_made() == ("out",)
    assert read_recipe(write_recipe(spec), name="out") == spec


def test_a_step_is_made_before_what_is_made_of_it(family: TinyShelf, job: TinyJob):
    spec = read_recipe(TWO_STEPS, name="out")
    plan = check(spec, family)
    assert [step.method.name for step in plan.before] == ["task_arithmetic", "linear"]
    outcome = run(spec, job)
    assert [model.name for model in outcome.models] == ["out"]
    assert outcome.models[0].parents == ("base", "a", "b", "c")
    base, a, b = (
        {k: v.float() for k, v in tensors(family.room / name).items()} for name in ("base", "a", "b")
    )
    halves = tensors(job.folder / "steps" / "halves" / "model")
    for name, value in halves.items():
        expected = 0.5 * (base[name] + 0.9 * (a[name] - base[name])) + 0.5 * b[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert job.fractions == sorted(job.fractions)


def test_steps_are_listed_only_when_that_is_asked_for(family: TinyShelf, job: TinyJob):
    spec = read_recipe(TWO_STEPS, name="out", keep_intermediates=True)
    assert spec.models_made() == ("out-nearly", "out-halves", "out")
    models = run(spec, job).models
    assert [model.name for model in models] == ["out-nearly", "out-halves", "out"]
    assert models[1].parents == ("base", "a", "b")
    again = read_recipe((models[1].folder / "mergekit_config.yml").read_text(), name="halves")
    assert [step.name for step in again.intermediates] == ["nearly"]  # it can be made again by itself
    assert json.loads((models[0].folder / "config.json").read_text())["dtype"] == "float32"


def test_a_job_that_was_cancelled_in_the_last_merge_does_not_make_its_steps_again(
    family: TinyShelf, job: TinyJob
):
    spec = read_recipe(TWO_STEPS, name="out")

    def cancel() -> None:
        if (job.folder / "merge" / "model" / "model.safetensors.part").exists():
            raise Cancelled

    job.on_breath = cancel
    with pytest.raises(Cancelled):
        run(spec, job)
    step = job.folder / "steps" / "halves" / "model" / "model.safetensors"
    before = step.stat().st_mtime_ns
    job.on_breath = lambda: None
    assert run(spec, job).models[0].name == "out"
    assert step.stat().st_mtime_ns == before


def test_an_adapter_may_lie_over_a_step(family: TinyShelf, job: TinyJob):
    adapter = family.room / "tune"
    adapter.mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    low_rank = {f"{stem}.lora_A.weight": torch.ones(1, 8), f"{stem}.lora_B.weight": torch.ones(8, 1)}
    write_shards(adapter, low_rank, 1)
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "x", "r": 1, "lora_alpha": 2}
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": ["q_proj"]}))
    step = "{name: step, merge_method: linear, dtype: float32, models: [{model: a, parameters: {weight: 1}}]}"
    model = "{model: {path: step}, lora: tune}"
    last = f"{{merge_method: linear, models: [{{model: {model}, parameters: {{weight: 1}}}}]}}"
    spec = read_recipe(f"{step}\n---\n{last}\n", name="out")
    assert spec.models[0].model == "step+tune"
    assert spec.models_used() == ("a", "tune")
    made = tensors(run(spec, job).models[0].folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = tensors(family.room / "a")[name].float() + 2.0
    torch.testing.assert_close(made[name], expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nmodels: [{model: y}]\n---\nname: y\nmodels: [{model: x}]\n", "need each other"),
        ("name: x\nmodels: [{model: x}]\n---\nmodels: [{model: x}]\n", "x needs x"),
        ("name: x\nmodels: [{model: a}]\n---\nmodels: [{model: b}]\n", "No other document needs"),
        ("name: x\n---\nname: x\n---\nmodels: [{model: x}]\n", "2 documents have the name 'x'"),
        ("name: 3\n", "name is '3'"),
        ("\n---\n".join(f"name: s{i}" for i in range(40)), "40 documents"),
    ],
)
def test_documents_that_make_no_single_result_are_refused(text: str, words: str):
    with pytest.raises(BadInput, match=words) as refused:
        read_recipe(text, name="out")
    assert refused.value.field in ("name", "recipe")


def test_a_fault_in_a_step_names_the_step(family: TinyShelf):
    with pytest.raises(BadInput, match="no model 'gone'") as refused:
        check(read_recipe(TWO_STEPS.replace("model: a,", "model: gone,"), name="out"), family)
    assert refused.value.field == "nearly.models.0.model"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
