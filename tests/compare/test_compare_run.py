"""Columns stream each at its own pace; one that fails, fails alone; a cancel ends them all."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CPU, FakeJob
from tiny_models import write_model

from lab.compare import run as running
from lab.compare.run import columns_at_once, run
from lab.compare.spec import CompareSpec, Turn
from lab.core.errors import BadInput, Cancelled, JobFailed
from lab.core.events import NewEvent, coalesce
from lab.merge import run as merging
from lab.merge.spec import merge_of
from lab.models.runtime import ModelCache

MakeJob = Callable[..., FakeJob]


def ask(*models: str, **changes: Any) -> CompareSpec:
    fields = {"prompt": "What is two and two?", "max_new_tokens": 12, "temperature": 0}
    return CompareSpec.model_validate({"models": models, **fields, **changes})


def told_text(events: list[NewEvent], column: int) -> str:
    """Join the deltas of one column, as a page does."""
    return "".join(
        event.payload["text"]
        for event in events
        if event.kind == "delta" and event.payload["column"] == column
    )


def phases(job: FakeJob, column: int) -> list[str]:
    told = [told["phase"] for told in job.of("column") if told["column"] == column]
    return [phase for phase, _ in itertools.groupby(told)]


@pytest.fixture(scope="module")
def cache() -> ModelCache:
    return ModelCache()


class TestAnswers:
    def test_every_model_answers_in_its_own_column(self, make_job: MakeJob, cache: ModelCache) -> None:
        job = make_job()
        columns = run(ask("base", "pirate", "sums", "adapter"), job, cache).summary["columns"]
        assert [column["model"] for column in columns] == ["base", "pirate", "sums", "adapter"]
        for place, column in enumerate(columns):
            assert column["text"] == told_text(job.events, place)
            assert column["stop_reason"] in ("end", "length")
            assert column["prompt_tokens"] > 0
            assert column["tokens"] > 0

    def test_the_text_is_the_same_however_the_events_were_batched(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        job = make_job()
        columns = run(ask("base", "pirate"), job, cache).summary["columns"]
        for cut in range(0, len(job.events), 5):
            stored = coalesce(job.events[:cut]) + coalesce(job.events[cut:])
            assert [told_text(stored, place) for place in (0, 1)] == [column["text"] for column in columns]

    def test_phases_come_in_order_and_end_with_the_figures(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        job = make_job()
        [column] = run(ask("base"), job, cache).summary["columns"]
        assert phases(job, 0) == ["waiting", "reading", "writing", "done"]
        last = job.of("column")[-1]
        for name in ("tokens", "first_token_seconds", "tokens_per_second", "stop_reason", "prompt_tokens"):
            assert last[name] == column[name]

    def test_a_column_says_alone_what_it_says_beside_others(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        warm = {"temperature": 1.0, "seed": 11}
        together = run(ask("base", "pirate", "sums", **warm), make_job(), cache).summary["columns"]
        alone = [
            run(ask(name, **warm), make_job(), cache).summary["columns"][0] for name in ("base", "pirate")
        ]
        assert [column["text"] for column in alone] == [column["text"] for column in together[:2]]

    def test_a_conversation_goes_on_with_each_columns_own_answers(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        turns = (Turn(prompt="Hi", answers=("a", "a much longer answer")),)
        columns = run(ask("base", "pirate", earlier=turns), make_job(), cache).summary["columns"]
        assert columns[1]["prompt_tokens"] - columns[0]["prompt_tokens"] == len("a much longer answer") - 1

    def test_warm_models_are_not_loaded_again(
        self, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = ModelCache()
        run(ask("base"), make_job(), own)
        monkeypatch.setattr("lab.models.runtime.load", lambda *args: pytest.fail("loaded twice"))
        assert run(ask("base"), make_job(), own).summary["columns"][0]["text"]

    def test_the_jobs_own_thread_keeps_its_thread_count(self, make_job: MakeJob, cache: ModelCache) -> None:
        before = torch.get_num_threads()
        run(ask("base", "pirate"), make_job(), cache)
        assert torch.get_num_threads() == before


class TestFailures:
    def test_a_model_that_is_gone_fails_alone(self, make_job: MakeJob, cache: ModelCache) -> None:
        job = make_job()
        columns = run(ask("base", "gone"), job, cache).summary["columns"]
        assert columns[0]["text"]
        assert (columns[1]["stop_reason"], columns[1]["text"]) == ("failed", "")
        assert "gone" in columns[1]["failure"]
        [note] = job.of("note")
        assert note["level"] == "warning"
        assert phases(job, 1) == ["waiting", "done"]

    def test_a_prompt_too_long_for_one_model_fails_that_column(
        self, make_job: MakeJob, cache: ModelCache, tmp_path: Path
    ) -> None:
        from tiny_models import Shape

        short = write_model(tmp_path / "short", shape=Shape(context=20))
        columns = run(ask("base", "short"), make_job(places={"short": short}), cache).summary["columns"]
        assert columns[0]["stop_reason"] == "length"
        assert "Its context holds 20" in columns[1]["failure"]

    def test_when_no_model_can_answer_the_job_fails_with_the_reason(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        with pytest.raises(BadInput, match="context holds 512") as caught:
            run(ask("base", "pirate", prompt="a" * 600), make_job(), cache)
        assert caught.value.field == "prompt"

    def test_a_model_too_large_for_memory_fails_with_its_code(self, make_job: MakeJob) -> None:
        job = make_job(device=replace(CPU, free_bytes=1000))
        with pytest.raises(JobFailed) as caught:
            run(ask("base"), job, ModelCache())
        assert caught.value.code == "out_of_memory"

    def test_memory_that_runs_out_while_writing_fails_the_column(
        self, make_job: MakeJob, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: object, **options: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(running, "stream", full)
        with pytest.raises(JobFailed, match="memory of CPU, 1 thread, float32 ran out"):
            run(ask("base"), make_job(), cache)

    def test_a_fault_of_the_labs_own_ends_the_job(
        self, make_job: MakeJob, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: object, **options: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(running, "render", broken)
        with pytest.raises(ZeroDivisionError):
            run(ask("base"), make_job(), cache)


class TestEnding:
    def test_a_cancel_ends_every_column_and_no_thread_stays(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        job = make_job(cancel_at=2)
        with pytest.raises(Cancelled):
            run(ask("base", "pirate", max_new_tokens=400), job, cache)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("column")]
        assert sum("tokens" in told and told["tokens"] >= 400 for told in job.of("column")) == 0

    def test_stopping_keeps_what_was_said(self, make_job: MakeJob, cache: ModelCache) -> None:
        job = make_job(stop_at=1)
        outcome = run(ask("base", "pirate", max_new_tokens=400), job, cache)
        assert outcome.stopped_early
        for place, column in enumerate(outcome.summary["columns"]):
            assert column["text"] == told_text(job.events, place)
        assert "stopped" in {column["stop_reason"] for column in outcome.summary["columns"]}


class TestPace:
    def test_models_that_fit_together_write_together(self) -> None:
        assert columns_at_once([1 << 28] * 4, CPU) == 4

    def test_models_that_do_not_fit_together_take_turns(self) -> None:
        assert columns_at_once([3 << 30] * 2, CPU) == 1

    def test_no_model_is_no_trouble(self) -> None:
        assert columns_at_once([], CPU) == 1


class TestLiveMerges:
    def test_a_recipes_column_answers_as_the_merged_model_would(
        self, make_job: MakeJob, cache: ModelCache, tmp_path: Path
    ) -> None:
        recipe = merge_of("ties", [("pirate", 0.4), ("sums", 0.6)], name="mix", base="base")
        job = make_job()
        [made] = merging.run(recipe, job).models
        columns = [
            run(spec, make_job(places={"mix": made.folder}), cache).summary["columns"][0]["text"]
            for spec in (ask("mix"), ask("mix", recipes=(recipe,)))
        ]
        assert columns[0] == columns[1]

    def test_asking_again_merges_nothing_and_other_weights_are_merged_anew(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        def seconds(weight: float) -> float:
            recipe = merge_of("linear", [("pirate", weight), ("sums", 0.5)], name="mix")
            job = make_job()
            row = run(ask("base", "mix", recipes=(recipe,)), job, cache).summary["columns"][1]
            assert phases(job, 1)[:2] == ["waiting", "merging"]
            assert row["live_bytes"] > 0
            return float(row["merge_seconds"])

        assert seconds(0.25) > 0
        assert seconds(0.25) == 0
        assert seconds(0.75) > 0

    def test_two_recipes_of_the_same_siblings_take_turns_with_the_resident_model(
        self, make_job: MakeJob, cache: ModelCache
    ) -> None:
        recipes = [
            merge_of("linear", [("pirate", weight), ("sums", 1.0)], name=f"mix-{weight}")
            for weight in (0.2, 5.0)
        ]
        names = [recipe.name for recipe in recipes]
        both = run(ask(*names, recipes=recipes), make_job(), cache).summary["columns"]
        for column, recipe in zip(both, recipes, strict=True):
            alone = run(ask(recipe.name, recipes=(recipe,)), make_job(), cache).summary["columns"][0]
            assert column["text"] == alone["text"]
