"""Finds what this machine computes on, and in which precision. Asked in children only: it may touch CUDA."""

from pathlib import Path

import psutil
import torch

from lab.core.errors import BadInput
from lab.core.job import Device
from lab.core.settings import Settings
from workers.threads import all_threads

FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors whose bfloat16 products are no slower than float32 (the last is ARM's)."""


def find_devices(settings: Settings) -> list[Device]:
    """Return the devices that jobs may use: the CUDA devices where there are any, else the CPU.

    Raises:
        BadInput: LAB_DEVICES names a device that is not there.
    """
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["cpu"]
    wanted = [name.strip() for name in settings.devices.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise BadInput(
            f"LAB_DEVICES names {unknown[0]!r}.",
            f"This machine has {', '.join(there)}.",
            "Correct it, or unset it to use all there is.",
            field="LAB_DEVICES",
        )
    names = wanted or (there[:-1] or ["cpu"])
    return [_cpu(settings) if name == "cpu" else _cuda(name) for name in names]


def has_fast_bfloat16(cpuinfo: str) -> bool:
    """Tell from the text of /proc/cpuinfo whether the processor multiplies bfloat16 by itself."""
    for line in cpuinfo.splitlines():
        if line.lower().startswith(("flags", "features")):
            return bool(FAST_BFLOAT16 & set(line.lower().split()))
    return False


def _cpu(settings: Settings) -> Device:
    info = Path("/proc/cpuinfo")
    fast = info.exists() and has_fast_bfloat16(info.read_text(errors="replace"))
    dtype = "bfloat16" if fast else "float32"
    threads = all_threads(settings)
    words = f"CPU, {threads} thread{'s' if threads > 1 else ''}, {dtype}"
    return Device("cpu", dtype, words, psutil.virtual_memory().available)


def _cuda(name: str) -> Device:
    index = int(name.removeprefix("cuda:"))
    with torch.cuda.device(index):
        dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        free_bytes, _ = torch.cuda.mem_get_info(index)
    return Device(name, dtype, f"{torch.cuda.get_device_name(index)}, {dtype}", free_bytes)
