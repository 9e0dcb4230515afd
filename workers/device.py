"""Finds what a process computes on, and in which precision. Asked in children only: it may touch CUDA."""

import re
from pathlib import Path

import psutil
import torch

from lab.core.errors import BadInput
from lab.core.job import Device, Partner
from lab.core.settings import Settings, environment_for_gpu, show_one_gpu
from workers.memory import host_bytes
from workers.orders import DeviceFacts
from workers.threads import all_threads

FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors whose bfloat16 products are no slower than float32 (the last is ARM's)."""

_CPU_PART = re.compile("cpu:[0-9]{1,2}")


class Devices:
    """What a process computes on: one of this machine's devices. Make it before CUDA is touched.

    The other GPUs are hidden from the process, because a library that sees several spreads over them by
    itself: transformers' Trainer (5.23) would wrap the model in DataParallel.

    Args:
        settings: the lab's settings.
        slot: which of the devices is ours: the slot-th, round and round.

    Attributes:
        names: all devices that jobs may use, ours among them.
        name: ours, as this machine numbers it.

    Raises:
        BadInput: LAB_DEVICES names a device that is not there.
    """

    def __init__(self, settings: Settings, slot: int = 0) -> None:
        self._settings = settings
        self.names = device_names(settings)
        self.name = self.names[slot % len(self.names)]
        self._environments = {name: environment_for_gpu(_number(name)) for name in self.names}
        show_one_gpu(_number(self.name))

    def own(self) -> Device:
        """Return our device, with the memory that is free now."""
        return self._cpu() if _is_cpu(self.name) else _cuda(self.name)

    def partner(self, name: str) -> Partner:
        """Return another of our devices, for a further process of a job that holds it too."""
        return Partner(name, self._environments[name])

    def facts(self) -> DeviceFacts:
        """Return our device for the table of devices."""
        total = host_bytes() // self._parts if _is_cpu(self.name) else int(torch.cuda.mem_get_info(0)[1])
        return DeviceFacts(self.name, self.own().words, total)

    @property
    def _parts(self) -> int:
        """Into how many parts the CPU is divided; each has its share of threads and memory."""
        return sum(_is_cpu(name) for name in self.names)

    def _cpu(self) -> Device:
        part = "" if self._parts == 1 else f" (part {self.names.index(self.name) + 1} of {self._parts})"
        return _cpu(self._settings, part, self._parts)

    def words(self) -> tuple[str, ...]:
        """Return all devices for people to read, ours first; only ours can be looked at closely."""
        return (self.own().words, *(name for name in self.names if name != self.name))


def cpu_device(settings: Settings) -> Device:
    """Return the CPU, for a job that a GPU was too small for."""
    return _cpu(settings)


def device_names(settings: Settings) -> list[str]:
    """Return the names of the devices that jobs may use: the GPUs where there are any, else the CPU.

    LAB_DEVICES may divide the CPU into parts, "cpu:0,cpu:1", as suits a host with several sockets.

    Raises:
        BadInput: LAB_DEVICES names a device that is not there.
    """
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["cpu"]
    wanted = list(dict.fromkeys(name.strip() for name in settings.devices.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in there and not _CPU_PART.fullmatch(name)]
    if unknown:
        raise BadInput(
            f"LAB_DEVICES names {unknown[0]!r}.",
            f"This machine has {', '.join(there)}.",
            "Correct it, or unset it to use all there is.",
            field="LAB_DEVICES",
        )
    return wanted or (there[:-1] or ["cpu"])


def has_fast_bfloat16(cpuinfo: str) -> bool:
    """Tell from the text of /proc/cpuinfo whether the processor multiplies bfloat16 by itself."""
    for line in cpuinfo.splitlines():
        if line.lower().startswith(("flags", "features")):
            return bool(FAST_BFLOAT16 & set(line.lower().split()))
    return False


def _is_cpu(name: str) -> bool:
    return name.startswith("cpu")


def _number(name: str) -> int | None:
    """Return a GPU's number; None for the CPU."""
    return None if _is_cpu(name) else int(name.removeprefix("cuda:"))


def _cpu(settings: Settings, part: str = "", parts: int = 1) -> Device:
    info = Path("/proc/cpuinfo")
    fast = info.exists() and has_fast_bfloat16(info.read_text(errors="replace"))
    dtype = "bfloat16" if fast else "float32"
    threads = max(1, all_threads(settings) // parts)
    words = f"CPU{part}, {threads} thread{'s' if threads > 1 else ''}, {dtype}"
    return Device("cpu", dtype, words, psutil.virtual_memory().available // parts)


def _cuda(name: str) -> Device:
    """Describe the only GPU that this process sees; `name` is how the machine numbers it."""
    dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    free_bytes, _ = torch.cuda.mem_get_info(0)
    number = "" if name == "cuda:0" else f" ({name})"
    return Device("cuda:0", dtype, f"{torch.cuda.get_device_name(0)}{number}, {dtype}", free_bytes)
