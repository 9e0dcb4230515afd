"""The device is chosen here, told in words, and CPU threads are shared among the jobs that run."""

from pathlib import Path

import pytest
import torch

from lab.core.errors import BadInput
from lab.core.settings import Settings
from workers.device import find_devices, has_fast_bfloat16
from workers.threads import all_threads, share_of_threads


def test_without_cuda_jobs_compute_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    [device] = find_devices(Settings(data=tmp_path, threads=3))
    assert device.torch == "cpu"
    assert device.dtype in ("bfloat16", "float32")
    assert device.words == f"CPU, 3 threads, {device.dtype}"
    assert device.free_bytes > 0


def test_one_thread_is_not_called_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    [device] = find_devices(Settings(data=tmp_path, threads=1))
    assert "1 thread," in device.words


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="LAB_DEVICES names 'cuda:77'") as caught:
        find_devices(Settings(data=tmp_path, devices="cpu, cuda:77"))
    assert caught.value.field == "LAB_DEVICES"


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_used_where_the_processor_multiplies_it(cpuinfo: str, fast: bool) -> None:
    assert has_fast_bfloat16(cpuinfo) is fast


def test_cores_are_shared_among_the_jobs_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    settings = Settings(data=tmp_path)
    assert all_threads(settings) == 8
    assert [share_of_threads(settings, running) for running in (0, 1, 2, 3, 20)] == [8, 8, 4, 2, 1]


def test_a_thread_count_that_is_set_is_each_jobs_own(tmp_path: Path) -> None:
    assert share_of_threads(Settings(data=tmp_path, threads=5), running=4) == 5
