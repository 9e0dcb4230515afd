"""The device is chosen here, told in words, and CPU threads are shared among the jobs that run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lab.core.errors import BadInput
from lab.core.job import Device
from lab.core.settings import Settings
from workers.device import Devices, has_fast_bfloat16
from workers.threads import all_threads, share_of_threads


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Give this machine GPUs, none at first; what the process is told about them is undone afterwards."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def give(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    give(0)
    yield give
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def test_without_cuda_jobs_compute_on_the_cpu(tmp_path: Path) -> None:
    device = Devices(Settings(data=tmp_path, threads=3)).own()
    assert device.torch == "cpu"
    assert device.dtype in ("bfloat16", "float32")
    assert device.words == f"CPU, 3 threads, {device.dtype}"
    assert device.free_bytes > 0


def test_one_thread_is_not_called_threads(tmp_path: Path) -> None:
    assert "1 thread," in Devices(Settings(data=tmp_path, threads=1)).own().words


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="LAB_DEVICES names 'cuda:77'") as caught:
        Devices(Settings(data=tmp_path, devices="cpu, cuda:77"))
    assert caught.value.field == "LAB_DEVICES"


@pytest.mark.parametrize(
    ("seen", "devices", "slot", "shown"),
    [
        (None, "", 0, "0"),
        (None, "", 2, "2"),
        (None, "", 5, "1"),  # round and round
        ("6,4, 7,5", "", 2, "7"),  # what the lab was given is numbered from 0
        ("GPU-aa,GPU-bb,GPU-cc,GPU-dd", "", 1, "GPU-bb"),
        (None, "cuda:1,cuda:3", 1, "3"),
        (None, "cuda:1,cpu", 1, ""),
        (None, "cpu", 0, ""),
    ],
)
def test_a_process_sees_the_one_gpu_of_its_slot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: Callable[[int], None],
    seen: str | None,
    devices: str,
    slot: int,
    shown: str,
) -> None:
    gpus(4)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    Devices(Settings(data=tmp_path, devices=devices), slot)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown


def test_the_device_keeps_its_number_in_words_but_is_the_only_one_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: Callable[[int], None]
) -> None:
    gpus(2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (8 << 30, 16 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU of index {index}")
    devices = Devices(Settings(data=tmp_path), slot=1)
    assert devices.own() == Device("cuda:0", "bfloat16", "GPU of index 0 (cuda:1), bfloat16", 8 << 30)
    assert devices.words() == ("GPU of index 0 (cuda:1), bfloat16", "cuda:0")


def test_a_child_keeps_to_its_gpu_before_it_imports_the_kinds_of_jobs(
    tmp_path: Path, gpus: Callable[[int], None]
) -> None:
    gpus(3)
    code = (
        "import os, sys, types, torch\n"
        "torch.cuda.device_count = lambda: 3\n"
        "class Kinds(types.ModuleType):\n"
        "    def __getattr__(self, name):\n"
        "        assert os.environ['CUDA_VISIBLE_DEVICES'] == '2', os.environ.get('CUDA_VISIBLE_DEVICES')\n"
        "        assert not torch.cuda.is_initialized()\n"
        "        return {}\n"
        "sys.modules['kinds'] = Kinds('kinds')\n"
        "from lab.core.settings import Settings\n"
        "from workers.bench import Bench\n"
        "from workers.lane import LanePlan\n"
        f"Bench.set_up(Settings(data={str(tmp_path)!r}), LanePlan('batch', jobs='kinds'), 2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


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


def test_the_cpu_can_be_two_devices_with_half_of_it_each(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, threads=4, devices="cpu:0,cpu:1")
    whole = Devices(Settings(data=tmp_path, threads=4)).facts()
    first, second = Devices(settings, 0), Devices(settings, 1)
    assert (first.name, second.name) == ("cpu:0", "cpu:1")
    assert second.own().torch == "cpu"
    assert second.own().words.startswith("CPU (part 2 of 2), 2 threads")
    assert second.facts().total_bytes == whole.total_bytes // 2


def test_a_partner_is_told_which_gpu_it_may_see(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    devices = Devices(Settings(data=tmp_path), 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"  # ours
    assert devices.partner("cuda:1").environment == {"CUDA_VISIBLE_DEVICES": "7"}
