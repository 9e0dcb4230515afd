"""A merge in memory has the weights of the merge on disk, to the bit, and is made only when it must be."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CPU, FakeJob, FakeShelf
from tiny_models import Bench

from lab.core.errors import BadInput, Cancelled, JobFailed
from lab.merge import run as on_disk
from lab.merge.live import LiveModel, open_live
from lab.merge.reading import Memory, TensorStack
from lab.merge.registry import merge_methods
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec, merge_of
from lab.models.runtime import ModelCache, load
from lab.models.source import Source

MakeJob = Callable[..., FakeJob]
WHOLE = [one.name for one in merge_methods.values() if one.models[1] > 1 and one.calibration is None]


@pytest.fixture
def bench_shelf(bench: Bench) -> FakeShelf:
    return FakeShelf(bench.root)


def recipe_of(method: str, *models: tuple[str, float], **changes: Any) -> MergeSpec:
    base = None if merge_methods[method].base == "none" else "base"
    return merge_of(
        method, models or (("pirate", 0.3), ("sums", 0.7)), **{"name": "x", "base": base} | changes
    )


def numbers(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def kept(spec: MergeSpec, job: FakeJob) -> dict[str, torch.Tensor]:
    """Merge on disk as a job does, and load what it made."""
    [made] = on_disk.run(spec, job).models
    return numbers(load(Source(spec.name, made.folder), CPU).model)


def live_of(spec: MergeSpec, shelf: FakeShelf) -> tuple[LiveModel, LiveRecipe]:
    recipe = LiveRecipe.find(spec, shelf)
    return LiveModel(recipe, CPU), recipe


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestSameNumbers:
    @pytest.mark.parametrize("method", WHOLE)
    def test_every_method_makes_in_memory_what_it_makes_on_disk(
        self, method: str, make_job: MakeJob, bench_shelf: FakeShelf
    ) -> None:
        models = (("base", 0.5), ("sums", 0.7)) if merge_methods[method].base == "first" else ()
        if merge_methods[method].models[0] == 3:
            models = (("base", 1.0), ("pirate", 0.5), ("sums", 0.7))
        knobs = {"scope": "tensor"} if "scope" in merge_methods[method].parameters else {}
        spec = recipe_of(method, *models, knobs=knobs, dtype="bfloat16")
        live, recipe = live_of(spec, bench_shelf)
        with live.merged(recipe, threads=2):
            assert same(numbers(live.loaded.model), kept(spec, make_job()))

    def test_an_adapter_counts_with_its_change(self, make_job: MakeJob, bench_shelf: FakeShelf) -> None:
        spec = recipe_of("task_arithmetic", ("pirate", 1.0), ("adapter", 0.5))
        live, recipe = live_of(spec, bench_shelf)
        with live.merged(recipe):
            assert same(numbers(live.loaded.model), kept(spec, make_job()))

    def test_moving_the_weights_back_brings_the_first_numbers_back(self, bench_shelf: FakeShelf) -> None:
        live, first = live_of(recipe_of("ties", knobs={"density": 0.4}), bench_shelf)
        with live.merged(first):
            before = numbers(live.loaded.model)
        other = LiveRecipe.find(recipe_of("linear", ("pirate", 1.0), ("sums", -0.5)), bench_shelf)
        with live.merged(other):
            assert not same(before, numbers(live.loaded.model))
        with live.merged(first):
            assert same(before, numbers(live.loaded.model))

    @pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
    def test_a_moved_weight_looks_for_no_cut_again_and_a_moved_density_does(
        self, method: str, make_job: MakeJob, bench_shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live, first = live_of(recipe_of(method, knobs={"density": 0.4}), bench_shelf)
        passes: list[int] = []
        read = TensorStack.chunks
        monkeypatch.setattr(
            TensorStack, "chunks", lambda stack, multiple=1: passes.append(1) or read(stack, multiple)
        )

        def passes_for(*models: tuple[str, float], density: float) -> int:
            spec = recipe_of(method, *models, knobs={"density": density})
            passes.clear()
            with live.merged(LiveRecipe.find(spec, bench_shelf)):
                count = len(passes)
                assert same(numbers(live.loaded.model), kept(spec, make_job()))
            return count

        once = len(first.plan.tensors)
        assert passes_for(("pirate", 0.3), ("sums", 0.7), density=0.4) >= 2 * once
        assert passes_for(("pirate", 0.9), ("sums", 0.7), density=0.4) == once
        assert passes_for(("sums", 0.7), ("pirate", 0.9), density=0.4) >= 2 * once
        assert passes_for(("pirate", 0.9), ("sums", 0.7), density=0.6) >= 2 * once


def test_a_memory_that_is_full_begins_anew() -> None:
    found: list[str] = []
    memory = Memory(most=2)
    for key in "aabca":
        memory.recall(key, lambda key=key: found.append(key))
    assert found == ["a", "b", "c", "a"]


class TestMergingOnlyWhenNeeded:
    def test_the_same_recipe_under_another_name_is_not_merged_again(self, bench_shelf: FakeShelf) -> None:
        live, recipe = live_of(recipe_of("linear"), bench_shelf)
        with live.merged(recipe) as seconds:
            assert seconds > 0
        with live.merged(LiveRecipe.find(recipe_of("linear", name="y"), bench_shelf)) as seconds:
            assert seconds == 0
        assert live.merges == 1

    def test_the_cache_keeps_one_resident_model_for_all_weights(self, bench_shelf: FakeShelf) -> None:
        cache = ModelCache()
        recipes = [
            LiveRecipe.find(recipe_of("linear", ("pirate", weight), ("sums", 1.0)), bench_shelf)
            for weight in (0.1, 0.2)
        ]
        first, second = (open_live(recipe, cache, CPU) for recipe in recipes)
        assert first is second
        assert cache.size_bytes() == first.size_bytes == recipes[0].bytes_in("float32")
        cache.clear()
        assert open_live(recipes[0], cache, CPU) is not first

    def test_a_merge_that_was_given_up_is_made_again(self, bench_shelf: FakeShelf) -> None:
        live, recipe = live_of(recipe_of("linear"), bench_shelf)

        def unwanted() -> None:
            raise Cancelled

        with pytest.raises(Cancelled), live.merged(recipe, breathe=unwanted):
            pass
        with live.merged(recipe) as seconds:
            assert seconds > 0

    def test_another_recipe_waits_until_nobody_uses_the_model(self, bench_shelf: FakeShelf) -> None:
        live, first = live_of(recipe_of("linear"), bench_shelf)
        second = LiveRecipe.find(recipe_of("linear", ("pirate", 1.0), ("sums", 0.0)), bench_shelf)
        waits, done = threading.Event(), threading.Event()

        def ask() -> None:
            with live.merged(second, breathe=waits.set):
                done.set()

        with live.merged(first):
            other = threading.Thread(target=ask)
            other.start()
            assert waits.wait(60)
            assert not done.is_set()
        other.join(60)
        assert done.is_set()

    def test_merging_waits_while_another_model_is_loaded(self, bench_shelf: FakeShelf) -> None:
        """While transformers loads in bfloat16, every thread's new tensors are bfloat16."""
        recipe = LiveRecipe.find(recipe_of("linear"), bench_shelf)
        cache = ModelCache()
        live = open_live(recipe, cache, CPU)
        waits, done = threading.Event(), threading.Event()

        def ask() -> None:
            with live.merged(recipe, breathe=waits.set):
                done.set()

        with cache.loading:
            other = threading.Thread(target=ask)
            other.start()
            assert waits.wait(60)
            assert not done.is_set()
        other.join(60)
        assert done.is_set()


class TestRefusals:
    def test_models_of_other_shapes_are_no_siblings(self, bench_shelf: FakeShelf) -> None:
        with pytest.raises(BadInput, match="wide has a width of 128"):
            LiveRecipe.find(recipe_of("linear", ("pirate", 1.0), ("wide", 1.0)), bench_shelf)

    def test_stacked_layers_have_another_shape(self, bench_shelf: FakeShelf) -> None:
        part = {"sources": [{"model": "base", "layer_range": [0, 2]}]}
        spec = MergeSpec.model_validate({"name": "x", "method": "passthrough", "slices": [part, part]})
        with pytest.raises(BadInput, match="A live merge takes whole models"):
            LiveRecipe.find(spec, bench_shelf)

    def test_more_than_the_memory_holds_is_refused_with_the_figures(self, bench_shelf: FakeShelf) -> None:
        recipe = LiveRecipe.find(recipe_of("linear"), bench_shelf)
        with pytest.raises(JobFailed, match=r"has 0\.0 GB free") as caught:
            LiveModel(recipe, replace(CPU, free_bytes=recipe.bytes_in("float32") - 1))
        assert caught.value.code == "out_of_memory"


def test_what_an_adapter_shares_with_its_base_is_held_once(bench_shelf: FakeShelf, bench: Bench) -> None:
    recipe = LiveRecipe.find(recipe_of("task_arithmetic", ("adapter", 1.0)), bench_shelf)
    weights = sum(file.stat().st_size for file in _files(bench.base, bench.adapter))
    assert weights * 0.9 < recipe.held_bytes < weights


def _files(*folders: Path) -> list[Path]:
    return [file for folder in folders for file in folder.glob("*.safetensors")]
