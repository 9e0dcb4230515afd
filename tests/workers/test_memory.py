"""Memory as the system tells of it, and what becomes of a job that ran out of it or lost its device."""

from pathlib import Path

import psutil
import pytest

from lab.core.errors import OutOfMemory
from lab.core.lastwords import UNHEARD
from lab.core.store.second_chances import DEVICE, MEMORY, ON_CPU, SMALLER
from workers import memory
from workers.endings import ending_of, loss_of, text_for_memory_kill


def test_a_container_may_have_less_memory_than_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMITS", (limit,))
    assert memory.host_bytes() == psutil.virtual_memory().total
    limit.write_text("max\n")
    assert memory.host_bytes() == psutil.virtual_memory().total
    limit.write_text("1073741824\n")
    assert memory.host_bytes() == 1 << 30
    limit.write_text("9223372036854771712\n")  # how the first kind of groups says that there is no limit
    assert memory.host_bytes() == psutil.virtual_memory().total


def test_the_kernels_kills_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KILLS", tmp_path / "vmstat")
    assert memory.kills_for_memory() == 0
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\noom_kill_other 9\n")
    assert memory.kills_for_memory() == 3


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: device-side assert triggered",
    ],
)
def test_a_sticky_cuda_error_loses_the_device(words: str) -> None:
    loss = loss_of(ending_of(RuntimeError(words)), on_gpu=True, last_words=UNHEARD)
    assert loss is not None
    assert (loss.code, loss.crashes) == (DEVICE, 1)


@pytest.mark.parametrize("words", ["CUDA error: invalid argument", "unknown error", "device-side assert"])
def test_other_errors_lose_no_device(words: str) -> None:
    assert ending_of(RuntimeError(words)).code == "internal"


def test_a_job_with_a_smaller_plan_is_tried_again_in_it() -> None:
    error = OutOfMemory("9 GB were expected to do; 8 GB were free.", "with 2 rows at once")
    loss = loss_of(ending_of(error), on_gpu=True, last_words=UNHEARD)
    assert loss is not None
    assert (loss.code, loss.thrift, loss.crashes) == (MEMORY, SMALLER, 0)
    assert loss.why == "its memory ran out; it is tried again with 2 rows at once"
    assert loss.text == "9 GB were expected to do; 8 GB were free."


def test_a_job_without_one_goes_from_the_gpu_to_the_cpu_and_from_there_nowhere() -> None:
    ending = ending_of(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    loss = loss_of(ending, on_gpu=True, last_words=UNHEARD)
    assert loss is not None
    assert (loss.code, loss.thrift) == (MEMORY, ON_CPU)
    assert loss_of(ending, on_gpu=False, last_words=UNHEARD) is None


def test_a_kill_for_memory_is_told_with_what_was_expected() -> None:
    text = text_for_memory_kill(3 << 30, 2 << 30)
    assert "expected to need 3.0 GB. This machine has 2.0 GB" in text
    assert "expected" not in text_for_memory_kill(0, 2 << 30)
