"""What a merge was to take and what it took, side by side in the job's result."""

import pytest
import torch
from tiny_merge import TinyJob, TinyShelf, tensors_of

from lab.core.errors import JobFailed
from lab.merge.check import check
from lab.merge.cost import Meter, foretold, own_memory
from lab.merge.run import run
from lab.merge.spec import merge_of


def test_a_merge_records_what_it_was_to_take_and_what_it_took(family: TinyShelf, job: TinyJob) -> None:
    outcome = run(merge_of("linear", [("a", 1.0), ("b", 1.0)], name="out"), job)
    cost = outcome.summary["cost"]
    written = sum(file.stat().st_size for file in outcome.models[0].folder.glob("*.safetensors"))
    assert cost["real"]["disk_bytes"] == written
    assert cost["foretold"]["disk_bytes"] == 2576
    assert cost["real"]["seconds"] > 0
    assert cost["real"]["memory_bytes"] >= 0
    assert cost["foretold"]["seconds"] > 0


def test_memory_grows_with_models_and_threads(family: TinyShelf) -> None:
    two = check(merge_of("linear", [("a", 1.0), ("b", 1.0)], name="out"), family)
    three = check(merge_of("linear", [("a", 1.0), ("b", 1.0), ("c", 1.0)], name="out"), family)
    assert foretold(three, 1).memory_bytes > foretold(two, 1).memory_bytes
    assert foretold(two, 4).memory_bytes > foretold(two, 1).memory_bytes


def test_a_meter_keeps_the_peak_of_memory_that_is_given_back() -> None:
    meter, start = Meter(), own_memory()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    meter.look(start)
    del block
    meter.look(start)
    assert meter.memory_bytes > 60 << 20


def test_values_that_the_weights_blow_up_fail_the_job_before_they_are_written(
    shelf: TinyShelf, job: TinyJob
) -> None:
    shelf.add("big", {k: torch.full_like(v, 3e38) for k, v in tensors_of(1, seed=1).items()}, torch.float32)
    spec = merge_of("linear", [("big", 4.0)], name="out", knobs={"normalize": False})
    with pytest.raises(JobFailed, match="the weights or knobs blow them up") as failed:
        run(spec, job)
    assert failed.value.code == "not_finite"
