"""Models load once, fit the memory or say so, and an adapter computes as peft computes it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import CPU, FakeShelf
from tiny_models import Bench, write_adapter, write_model

from lab.core.errors import BadInput, JobFailed, NotFound
from lab.models.runtime import ModelCache, load, load_tokenizer
from lab.models.source import Source

IDS = torch.tensor([[1, 20, 30, 40]])


@pytest.fixture
def shelf(bench: Bench) -> FakeShelf:
    return FakeShelf(bench.root)


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits  # type: ignore[operator, no-any-return]


class TestLoading:
    def test_a_model_computes_in_the_devices_precision(self, shelf: FakeShelf) -> None:
        assert load(Source.find("base", shelf), CPU).model.dtype == torch.float32
        half = replace(CPU, dtype="bfloat16")
        assert load(Source.find("base", shelf), half).model.dtype == torch.bfloat16

    def test_it_knows_context_stops_and_size(self, shelf: FakeShelf) -> None:
        loaded = load(Source.find("base", shelf), CPU)
        assert (loaded.context, loaded.stop_ids, loaded.name) == (512, {2}, "base")
        assert loaded.size_bytes == Source.find("base", shelf).bytes_in("float32")

    def test_an_adapter_computes_as_peft_computes_it(self, shelf: FakeShelf, bench: Bench) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        oracle = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(bench.base), str(bench.adapter)
        ).eval()
        ours = load(Source.find("adapter", shelf), CPU).model
        assert torch.allclose(logits(oracle), logits(ours), atol=1e-4)
        assert not torch.allclose(logits(ours), logits(load(Source.find("base", shelf), CPU).model), atol=0.1)

    def test_an_adapter_without_its_base_is_refused_by_name(self, tmp_path: Path) -> None:
        write_adapter(tmp_path / "orphan", base="gone")
        with pytest.raises(NotFound, match="'gone'"):
            Source.find("orphan", FakeShelf(tmp_path))

    def test_an_adapter_on_an_adapter_is_refused(self, tmp_path: Path) -> None:
        write_adapter(tmp_path / "a", base="b")
        write_adapter(tmp_path / "b", base="a")
        with pytest.raises(BadInput, match="adapter itself"):
            Source.find("a", FakeShelf(tmp_path))

    def test_an_adapter_uses_its_bases_tokenizer(self, shelf: FakeShelf) -> None:
        assert load_tokenizer(Source.find("adapter", shelf)).eos_token == "<|im_end|>"

    def test_a_tokenizer_that_cannot_be_read_is_told_in_words(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "m")
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(BadInput, match="tokenizer of m can't be read"):
            load_tokenizer(Source("m", folder))

    def test_a_model_too_large_for_memory_is_refused_with_numbers(self, shelf: FakeShelf) -> None:
        with pytest.raises(JobFailed, match=r"takes 0\.0 GB in float32; CPU") as caught:
            load(Source.find("base", shelf), replace(CPU, free_bytes=1000))
        assert caught.value.code == "out_of_memory"

    def test_weights_in_bfloat16_take_half_the_memory(self, shelf: FakeShelf) -> None:
        source = Source.find("base", shelf)
        assert source.bytes_in("float32") == 2 * source.bytes_in("bfloat16")


class TestCache:
    def test_a_model_is_loaded_once(self, shelf: FakeShelf) -> None:
        cache = ModelCache()
        source = Source.find("base", shelf)
        assert cache.get(source, CPU) is cache.get(source, CPU)
        assert cache.has(source, CPU)

    def test_the_one_used_longest_ago_makes_room(self, shelf: FakeShelf) -> None:
        size = Source.find("base", shelf).bytes_in("float32")
        cache = ModelCache(budget_bytes=2 * size)
        for name in ("base", "pirate", "base", "sums"):
            cache.get(Source.find(name, shelf), CPU)
        assert cache.names() == ("base", "sums")

    def test_a_model_over_the_budget_is_still_loaded(self, shelf: FakeShelf) -> None:
        cache = ModelCache(budget_bytes=1)
        cache.get(Source.find("base", shelf), CPU)
        cache.get(Source.find("pirate", shelf), CPU)
        assert cache.names() == ("pirate",)

    def test_a_model_that_was_replaced_is_loaded_anew(self, tmp_path: Path) -> None:
        cache = ModelCache()
        source = Source("m", write_model(tmp_path / "m", seed=1))
        before = logits(cache.get(source, CPU).model)
        shutil.rmtree(tmp_path / "m")
        write_model(tmp_path / "m", seed=2)
        os.utime(tmp_path / "m" / "model.safetensors", (1, 1))
        assert not torch.equal(before, logits(cache.get(source, CPU).model))

    def test_clearing_lets_go_of_everything(self, shelf: FakeShelf) -> None:
        cache = ModelCache()
        cache.get(Source.find("base", shelf), CPU)
        cache.clear()
        assert cache.names() == ()
