"""lab/score/run on tiny models, against a naive scorer computed here; and how it tells, stops and goes on."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import FakeJob
from safetensors.torch import load_file, save_file
from tiny_models import Bench

from lab.core.errors import BadInput, Cancelled, JobFailed
from lab.score.run import run
from lab.score.spec import ScoreSpec

QUESTIONS = [
    {"question": "One and one", "choices": ["two", "three"], "answer": 0},
    {"question": "Sky", "choices": ["green", "blue", "a long red"], "answer": 1},
    {"question": "The opposite of hot is", "choices": ["cold", "warmish", "wet", "h"], "answer": 0},
    {"question": "Fish", "choices": ["swim", "fly"], "answer": 1},
    {"question": "Up", "choices": ["d", "down below"], "answer": 1},
]
TEXTS = [{"text": "It was a dark and stormy night. " * n} for n in (1, 3, 2)]


@pytest.fixture
def job(make_job: Callable[..., FakeJob], tmp_path: Path, bench: Bench) -> FakeJob:
    places = {}
    for name, rows in (("quiz", QUESTIONS), ("prose", TEXTS)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        places[name] = file
    return make_job(places=places)


def spec_for(*models: str, **fields) -> ScoreSpec:
    return ScoreSpec(models=models, **{"multiple_choice": "quiz", "text": "prose", **fields})


class Naive:
    """One sequence at a time, no cache, float64: what the figures should be."""

    def __init__(self, bench: Bench, name: str) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = bench.base if name == "adapter" else bench.root / name
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if name == "adapter":
            self.model = PeftModel.from_pretrained(self.model, bench.adapter).eval()
        self.model = self.model.double()

    def log_p(self, context: list[int], tail: list[int]) -> float:
        ids = torch.tensor([*context, *tail])
        with torch.inference_mode():
            told = self.model(ids[None]).logits[0].log_softmax(-1)
        return sum(told[len(context) - 1 + i, token].item() for i, token in enumerate(tail))

    def figures(self) -> dict[str, float]:
        right = normalised = 0
        for row in QUESTIONS:
            context = self.tokenizer.encode(f"Question: {row['question']}\nAnswer:")
            values = [self.log_p(context, self.tokenizer.encode(f" {choice}")) for choice in row["choices"]]
            each = [value / len(choice) for value, choice in zip(values, row["choices"], strict=True)]
            right += values.index(max(values)) == row["answer"]
            normalised += each.index(max(each)) == row["answer"]
        texts = [row["text"] for row in TEXTS]
        nats = sum(self.log_p([1], self.tokenizer.encode(text)) for text in texts)
        size = sum(len(text.encode()) for text in texts)
        count = len(QUESTIONS)
        return {
            "accuracy": right / count,
            "accuracy_normalised": normalised / count,
            "bits_per_byte": -nats / math.log(2) / size,
        }


def test_models_and_adapters_score_as_the_naive_scorer_says(job, bench):
    summary = run(spec_for("base", "pirate", "adapter"), job).summary
    for model in ("base", "pirate", "adapter"):
        rows = {row["metric"]: row for row in summary["scores"] if row["model"] == model}
        expected = Naive(bench, model).figures()
        assert {name: row["value"] for name, row in rows.items()} == pytest.approx(expected, abs=1e-6)
        assert {name: row["n"] for name, row in rows.items()} == {
            "accuracy": 5,
            "accuracy_normalised": 5,
            "bits_per_byte": 3,
        }
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
        assert rows["accuracy"]["data"] == "quiz"
        assert rows["bits_per_byte"]["data"] == "prose"


def test_verdicts_hold_every_model_against_the_first(job):
    summary = run(spec_for("base", "pirate", "sums"), job).summary
    told = [(row["model"], row["base"], row["metric"]) for row in summary["verdicts"]]
    metrics = ("accuracy", "accuracy_normalised", "bits_per_byte")
    assert sorted(told) == sorted(
        (model, "base", metric) for model in ("pirate", "sums") for metric in metrics
    )
    right = {(row["model"], row["metric"]): row["right"] for row in summary["items"]}
    for row in summary["verdicts"]:
        assert row["sentence"].startswith(f"{row['model']} against base: ")
        if row["metric"] != "bits_per_byte":
            pairs = list(zip(right["base", row["metric"]], right[row["model"], row["metric"]], strict=True))
            assert row["fixed"] == pairs.count(("0", "1"))
            assert row["broken"] == pairs.count(("1", "0"))


def test_the_summary_is_json_and_the_same_every_time(job):
    spec = spec_for("base", "pirate")
    first = json.dumps(run(spec, job).summary, allow_nan=False)
    for kept in job.folder.iterdir():
        kept.unlink()
    assert json.dumps(run(spec, job).summary) == first


def test_figures_stream_while_they_grow(job, monkeypatch):
    monkeypatch.setattr("lab.score.run.TELL_SECONDS", 0)
    monkeypatch.setattr("lab.score.likelihood.BATCH_TOKENS", {"cpu": 1})
    summary = run(spec_for("base", "pirate"), job).summary
    metrics = job.of("metric")
    assert [event["step"] for event in metrics] == list(range(1, 17))  # 5 + 3 items of each of two models
    assert set(metrics[0]["values"]) == {"base/accuracy", "base/accuracy_normalised"}
    final = {f"{row['model']}/{row['metric']}": row["value"] for row in summary["scores"]}
    assert metrics[-1]["values"] == final
    fractions = [event["fraction"] for event in job.of("progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("base: 3 of 5 questions" in event["words"] for event in job.of("progress"))


def test_a_limit_scores_the_first_rows_only(job):
    rows = run(spec_for("base", limit=2), job).summary["scores"]
    assert {row["n"] for row in rows} == {2}


def test_one_kind_of_file_gives_its_metrics_only(job):
    rows = run(spec_for("base", text=None), job).summary["scores"]
    assert {row["metric"] for row in rows} == {"accuracy", "accuracy_normalised"}


def test_an_attempt_goes_on_with_the_model_that_was_not_read(job, monkeypatch):
    spec = spec_for("base", "pirate")
    whole = run(spec, job).summary
    (job.folder / "model-1.json").unlink()
    loaded = []
    from lab.score import run as module

    load = module.load
    monkeypatch.setattr(
        module, "load", lambda source, device: (loaded.append(source.name), load(source, device))[1]
    )
    assert run(spec, job).summary == whole
    assert loaded == ["pirate"]


def test_a_cancel_is_noticed_between_batches(job, monkeypatch):
    monkeypatch.setattr("lab.score.likelihood.BATCH_TOKENS", {"cpu": 1})
    job.cancel_at = 4
    with pytest.raises(Cancelled):
        run(spec_for("base"), job)


def test_stop_and_keep_leaves_the_items_read_so_far(job, monkeypatch):
    monkeypatch.setattr("lab.score.likelihood.BATCH_TOKENS", {"cpu": 1})
    job.stop_at = 4
    outcome = run(spec_for("base", "pirate"), job)
    assert outcome.stopped_early
    assert {(row["model"], row["n"]) for row in outcome.summary["scores"]} == {("base", 3)}
    assert outcome.summary["verdicts"] == []


def test_a_model_of_nan_fails_in_words(job, bench, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bench.base.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    job = replace(job, places={**job.places, "broken": broken})
    with pytest.raises((JobFailed, BadInput), match="NaN"):
        run(spec_for("broken"), job)


def test_questions_longer_than_the_context_are_cut_and_said_so(job):
    file = job.places["quiz"]
    long = {"question": "why " * 200, "choices": ["yes", "no"], "answer": 0}
    file.write_text(json.dumps(long) + "\n" + json.dumps(QUESTIONS[0]) + "\n")
    run(spec_for("base", text=None), job)
    assert job.of("note") == [
        {"text": "base: 1 questions are longer than its context and lost their start.", "level": "warning"}
    ]


def test_an_answer_longer_than_the_context_fails_with_its_number(job):
    file = job.places["quiz"]
    file.write_text(json.dumps({"question": "q", "choices": ["a", "b" * 600], "answer": 0}) + "\n")
    with pytest.raises(JobFailed, match=r"Question 1: an answer has 60\d tokens, and the window holds 512"):
        run(spec_for("base", text=None), job)


def test_a_model_that_always_picks_one_place_is_pointed_at(job):
    rows = [{"question": "q", "choices": ["a", "a much longer and unlikely answer"], "answer": 1}] * 20
    job.places["quiz"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(spec_for("base", text=None), job)
    assert "base picks the same place in 100%" in job.of("note")[0]["text"]
