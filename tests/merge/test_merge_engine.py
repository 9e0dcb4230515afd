"""The streaming engine on tiny models: right to the bit, resumed after a kill, the same on any threads."""

import json
from hashlib import sha256
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_merge import TinyJob, TinyShelf, tensors_of

import lab.merge.engine
import lab.merge.reading
from lab.core.errors import Cancelled, JobFailed, Released
from lab.core.spec import spec_sha256
from lab.merge.check import prepare
from lab.merge.engine import Engine
from lab.merge.methods.ties import ties
from lab.merge.output import ShardFile, lay_out
from lab.merge.run import run
from lab.merge.spec import MergeSpec, merge_of, upscaled


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def three(method: str, **knobs: float) -> MergeSpec:
    return merge_of(method, [("a", 1.0), ("b", 0.5), ("c", -0.3)], base="base", name="out", knobs=knobs)


def engine_for(spec: MergeSpec, job: TinyJob, work: Path, threads: int = 1) -> Engine:
    return Engine(prepare(spec, job), work, spec_sha256(spec), threads=threads, shard_bytes=900)


@pytest.fixture(params=[1 << 18, 50])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Whole tensors, and tensors in several chunks."""
    monkeypatch.setattr(lab.merge.reading, "CHUNK", request.param)
    monkeypatch.setattr(lab.merge.engine, "CHUNK", request.param)
    return request.param


def test_a_merge_is_the_method_applied_to_every_tensor_and_rounded_once(
    family: TinyShelf, job: TinyJob, chunk: int
):
    outcome = run(three("ties", density=0.5), job)
    base, *models = [loaded(family.model(name)) for name in ("base", "a", "b", "c")]
    merged = loaded(outcome.models[0].folder)
    assert merged.keys() == base.keys()
    for name, value in merged.items():
        deltas = torch.stack([model[name].float() - base[name].float() for model in models])
        expected = base[name].float() + ties(deltas, torch.tensor([1.0, 0.5, -0.3]), density=0.5)
        torch.testing.assert_close(value, expected.bfloat16(), rtol=0.01, atol=1e-6)
        assert value.dtype == torch.bfloat16


def test_one_light_fine_tune_with_weight_one_comes_back_bit_by_bit(
    family: TinyShelf, job: TinyJob, chunk: int
):
    merged = loaded(
        run(merge_of("task_arithmetic", [("b", 1.0)], base="base", name="out"), job).models[0].folder
    )
    for name, value in loaded(family.model("b")).items():
        assert torch.equal(merged[name], value)


def test_a_merge_reports_progress_and_leaves_config_tokenizer_card_and_recipe(
    family: TinyShelf, job: TinyJob
):
    outcome = run(three("sce"), job)
    (model,) = outcome.models
    config = json.loads((model.folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["dtype"]) == (2, "bfloat16")
    assert "torch_dtype" not in config
    assert (model.folder / "tokenizer.json").exists()
    assert "merge_method: sce" in (model.folder / "README.md").read_text()
    assert "merge_method: sce" in (model.folder / "mergekit_config.yml").read_text()
    assert (model.kind, model.parents, model.facts["parameters"]) == ("merge", ("base", "a", "b", "c"), 1288)
    assert job.fractions[-1] == 1.0
    assert not list(model.folder.glob("*.part"))


@pytest.mark.parametrize("method", ["linear", "ties", "sce", "task_arithmetic"])
def test_any_number_of_threads_gives_the_same_bytes_and_tells_their_digests(
    family: TinyShelf, job: TinyJob, tmp_path: Path, method: str, chunk: int
):
    spec = three(method)
    results = []
    for threads in (1, 2, 5):
        engine = engine_for(spec, job, tmp_path / f"threads{threads}", threads)
        engine.run(job)
        results.append(files_of(engine.folder))
        for name, digest in engine.digests.items():
            assert digest == sha256(results[-1][name]).hexdigest()
    assert len(results[0]) > 3
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_file_s_digest_does_not_depend_on_the_order_in_which_its_tensors_are_written(
    family: TinyShelf, job: TinyJob, tmp_path: Path, order: tuple[int, ...]
):
    [shard, *_] = lay_out(prepare(three("linear"), job).tensors[:3])
    file = ShardFile(shard, tmp_path, tmp_path, "recipe")
    file.open()
    for place in order:
        size, start = shard.tensors[place].size_bytes, shard.starts[place]
        file.write(start + size // 2, bytes(size - size // 2))
        file.write(start, bytes([place + 1]) * (size // 2))
        file.settle(place)
    file.finish()
    assert file.sha256 == sha256((tmp_path / shard.file).read_bytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stop", [Cancelled, Released])
def test_a_merge_that_was_killed_goes_on_at_the_next_shard_and_ends_the_same(
    family: TinyShelf, job: TinyJob, tmp_path: Path, stop: type[Exception], threads: int
):
    spec = three("ties", density=0.5)
    whole = engine_for(spec, job, tmp_path / "whole")
    whole.run(job)

    broken = engine_for(spec, job, tmp_path / "broken", threads)

    def fail_once_two_shards_are_done() -> None:
        if len(list((tmp_path / "broken" / "done").glob("*.json"))) >= 2:
            raise stop

    job.on_breath = fail_once_two_shards_are_done
    try:
        broken.run(job)
    except stop:
        stopped = True
    else:
        stopped = False  # with threads it may have ended before the first breath
    assert stopped or threads > 1
    job.on_breath = lambda: None
    done = {file.name: file.stat().st_mtime_ns for file in broken.folder.glob("*.safetensors")}
    assert len(done) >= 2

    resumed = engine_for(spec, job, tmp_path / "broken", threads)
    resumed.run(job)
    assert files_of(resumed.folder) == files_of(whole.folder)
    for name, written in done.items():
        assert (resumed.folder / name).stat().st_mtime_ns == written


def test_a_shard_that_was_damaged_after_its_record_is_written_again(
    family: TinyShelf, job: TinyJob, tmp_path: Path
):
    spec = three("linear")
    engine_for(spec, job, tmp_path / "work").run(job)
    before = files_of(tmp_path / "work" / "model")
    victim = sorted((tmp_path / "work" / "model").glob("*.safetensors"))[1]
    raw = bytearray(victim.read_bytes())
    raw[-1] ^= 1
    victim.write_bytes(raw)
    engine_for(spec, job, tmp_path / "work").run(job)
    assert files_of(tmp_path / "work" / "model") == before


def test_shards_of_another_recipe_are_not_taken_over(family: TinyShelf, job: TinyJob, tmp_path: Path):
    engine_for(three("linear"), job, tmp_path / "work").run(job)
    other = engine_for(three("linear", normalize=False), job, tmp_path / "work")
    other.run(job)
    fresh = engine_for(three("linear", normalize=False), job, tmp_path / "fresh")
    fresh.run(job)
    assert files_of(other.folder) == files_of(fresh.folder)


def test_depth_upscaling_repeats_the_middle_and_renumbers_it(shelf: TinyShelf, job: TinyJob):
    kinds = ["full", "sliding", "full", "sliding"]
    shelf.add("deep", tensors_of(4, seed=3), layer_types=kinds, eos_token_id=[1, 2, 3, 4])
    outcome = run(upscaled("deep", 4, 1, name="deeper"), job)
    source, merged = loaded(shelf.model("deep")), loaded(outcome.models[0].folder)
    for output, layer in enumerate([0, 1, 2, 1, 2, 3]):
        stem = "self_attn.q_proj.weight"
        assert torch.equal(merged[f"model.layers.{output}.{stem}"], source[f"model.layers.{layer}.{stem}"])
    assert torch.equal(merged["model.embed_tokens.weight"], source["model.embed_tokens.weight"])
    assert torch.equal(merged["model.norm.weight"], source["model.norm.weight"])
    config = json.loads((outcome.models[0].folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["full", "sliding", "full", "sliding", "full", "sliding"]
    assert config["eos_token_id"] == [1, 2, 3, 4]
    assert (outcome.models[0].kind, outcome.models[0].parents) == ("upscaled", ("deep",))


def test_a_tied_output_head_is_not_written_and_an_untied_one_is(
    shelf: TinyShelf, job: TinyJob, tmp_path: Path
):
    tied = tensors_of(1, seed=1)
    shelf.add("tied", tied)
    shelf.add(
        "copied", {**tied, "lm_head.weight": tied["model.embed_tokens.weight"]}, tie_word_embeddings=True
    )
    shelf.add("untied", tensors_of(1, seed=2, head=True))
    both = run(merge_of("linear", [("tied", 1), ("copied", 1)], name="out"), job)
    assert "lm_head.weight" not in loaded(both.models[0].folder)
    assert json.loads((both.models[0].folder / "config.json").read_text())["tie_word_embeddings"] is True

    job.folder = tmp_path / "other"
    mixed = run(merge_of("linear", [("tied", 1), ("untied", 1)], name="out", dtype="float32"), job)
    merged, untied = loaded(mixed.models[0].folder), loaded(shelf.model("untied"))
    head = (
        loaded(shelf.model("tied"))["model.embed_tokens.weight"].float() + untied["lm_head.weight"].float()
    ) / 2
    torch.testing.assert_close(merged["lm_head.weight"], head)
    assert json.loads((mixed.models[0].folder / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(("dtype", "kind"), [("float32", torch.float32), ("float16", torch.float16)])
def test_the_result_has_the_dtype_that_was_asked_for(
    family: TinyShelf, job: TinyJob, dtype: str, kind: torch.dtype
):
    spec = merge_of("linear", [("a", 1), ("b", 1)], name="out", dtype=dtype)
    folder = run(spec, job).models[0].folder
    assert {value.dtype for value in loaded(folder).values()} == {kind}
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "sce"])
def test_a_weight_that_is_not_finite_fails_the_job_and_is_named(
    shelf: TinyShelf, job: TinyJob, bad: float, method: str
):
    shelf.add("good", tensors_of(1, seed=1))
    broken = tensors_of(1, seed=2)
    broken["model.layers.0.mlp.up_proj.weight"][3, 4] = bad
    shelf.add("broken", broken)
    base = None if method == "linear" else "good"
    with pytest.raises(
        JobFailed, match=r"broken holds NaN or infinite values in model\.layers\.0\.mlp\.up_proj"
    ) as failed:
        run(merge_of(method, [("good", 1), ("broken", 1)], name="out", base=base), job)
    assert failed.value.code == "not_finite"


def test_weights_so_large_that_their_sum_overflows_are_still_finite(shelf: TinyShelf, job: TinyJob):
    shelf.add(
        "large",
        {name: torch.full_like(value, 3e38) for name, value in tensors_of(1, seed=1).items()},
        torch.float32,
    )
    merged = loaded(run(merge_of("linear", [("large", 1)], name="out"), job).models[0].folder)
    assert merged["model.norm.weight"].isfinite().all()


def test_values_too_large_for_float16_fail_the_job(shelf: TinyShelf, job: TinyJob):
    shelf.add("large", {name: value * 1e6 for name, value in tensors_of(1, seed=1).items()})
    with pytest.raises(JobFailed, match="too large for float16"):
        run(merge_of("linear", [("large", 1)], name="out", dtype="float16"), job)


def test_whole_numbers_are_copied_where_models_agree_and_refused_where_not(shelf: TinyShelf, job: TinyJob):
    from safetensors.torch import save_file

    for name, count in (("a", 3), ("b", 3), ("c", 4)):
        folder = shelf.add(name, tensors_of(1, seed=1))
        tensors = loaded(folder) | {"model.steps": torch.tensor([count, 2])}
        save_file(tensors, folder / "model.safetensors")
    merged = loaded(run(merge_of("linear", [("a", 1), ("b", 1)], name="out"), job).models[0].folder)
    assert merged["model.steps"].tolist() == [3, 2]
    with pytest.raises(JobFailed, match=r"differ in model\.steps"):
        run(merge_of("linear", [("a", 1), ("c", 1)], name="out2"), job)


def test_a_full_disk_fails_the_job_in_words(family: TinyShelf, job: TinyJob, monkeypatch: pytest.MonkeyPatch):
    import errno
    import os

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(JobFailed, match="disk is full") as failed:
        run(three("linear"), job)
    assert failed.value.code == "disk_full"


def test_memory_holds_a_few_chunks_not_a_tensor(
    family: TinyShelf, job: TinyJob, monkeypatch: pytest.MonkeyPatch
):
    """The largest tensor that a method is shown is a chunk, whatever the model's size."""
    monkeypatch.setattr(lab.merge.reading, "CHUNK", 50)
    shown = []
    plain = lab.merge.reading.TensorStack.chunks

    def noted(self: object, multiple: int = 1):
        for chunk in plain(self, multiple):
            shown.append(chunk.shape[1])
            yield chunk

    monkeypatch.setattr(lab.merge.reading.TensorStack, "chunks", noted)
    run(three("ties", density=0.5), job)
    assert max(shown) == 50


def test_the_digests_told_are_those_of_the_files(family: TinyShelf, job: TinyJob):
    (model,) = run(three("sce"), job).models
    assert model.digests == {
        "model.safetensors": sha256((model.folder / "model.safetensors").read_bytes()).hexdigest()
    }
    again = run(three("sce"), job)  # from the record of the finished shard
    assert again.models[0].digests == model.digests


def test_torch_has_its_threads_back_after_a_merge(family: TinyShelf, job: TinyJob):
    torch.set_num_threads(2)
    run(three("linear"), job)
    assert torch.get_num_threads() == 2
