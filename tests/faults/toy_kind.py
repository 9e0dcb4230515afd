"""A kind of job for the fault tests: counts steps, keeps each in its folder, and makes a model if asked.

Stands in for `lab.jobs` in the consumer that toy_lane.py starts.
"""

import json
import os
import re
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lab.core.errors import BadInput
from lab.core.job import Device, Job, NewModel, Outcome, Run
from lab.core.settings import Settings
from lab.core.spec import JobSpec
from workers.orders import DeviceFacts


class ToySpec(JobSpec):
    kind: Literal["toy", "toychat"] = "toy"
    steps: int = 3
    step_seconds: float = 0.02
    deaf: bool = False
    makes: str | None = None
    fails: Literal["", "bad_input", "bug", "exit", "silence", "deaf_at_first", "stuck"] = ""
    fills: int = 0
    fills_the_rest: bool = False
    weighs: int = 0
    reads: str | None = None
    promises: bool = True

    @property
    def title(self) -> str:
        return "toy"

    def models_made(self) -> tuple[str, ...]:
        return (self.makes,) if self.makes and self.promises else ()


def run(spec: ToySpec, job: Job) -> Outcome:
    """Do the steps that no earlier attempt has done; each leaves a file and an event."""
    if spec.fails == "deaf_at_first" and job.attempt == 1:
        threading.Event().wait()
    read = job.model(spec.reads) if spec.reads else None
    for step in range(spec.steps):
        done = job.folder / f"step-{step}"
        if done.exists():
            continue
        if not spec.deaf:
            job.breathe()
        threading.Event().wait(spec.step_seconds)
        with (job.folder.parent / "ledger").open("a") as ledger:
            ledger.write(f"{step} {job.attempt} {os.getpid()}\n")
        with done.open("wb") as file:
            file.write(os.urandom(spec.fills))
        if read:
            (read / "toy.json").read_bytes()
        job.emit("metric", step=step, values={"pid": os.getpid()})
        _misbehave(spec)
        if job.stop_asked():
            return Outcome(summary={"steps": step + 1}, stopped_early=True)
    return Outcome(_models(spec, job), summary={"steps": spec.steps})


def _misbehave(spec: ToySpec) -> None:
    if spec.fails == "bad_input":
        raise BadInput("The toy is broken.", "A whole toy.", "Mend it.", field="fails")
    if spec.fails == "bug":
        raise KeyError("secret detail")
    if spec.fails == "exit":
        os.write(2, b"the toy falls over\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.fails == "stuck":
        re.fullmatch("(a+)+", "a" * 60 + "b")  # C code that never ends and lets no other thread run
    if spec.fails == "silence":
        threading.Event().wait()


def _models(spec: ToySpec, job: Job) -> tuple[NewModel, ...]:
    if not spec.makes:
        return ()
    folder = job.folder / "model"
    folder.mkdir(exist_ok=True)
    (folder / "toy.json").write_text(json.dumps({"attempt": job.attempt}))
    (folder / "weights.bin").write_bytes(bytes(spec.weighs))
    if spec.fills_the_rest:
        fill(job.folder / "ballast")
    return (NewModel(spec.makes, folder, "merge", words="a toy"),)


def fill(ballast: Path, leave: int = 0) -> None:
    """Fill the disk that a file is on, to the last page but for so many bytes."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    if leave:
        os.truncate(ballast, ballast.stat().st_size - leave)


class ToyDevices:
    """One device, or those of toy_devices.json in the data folder: names with their bytes."""

    def __init__(self, settings: Settings, slot: int) -> None:
        file = settings.data / "toy_devices.json"
        self._bytes = json.loads(file.read_text()) if file.exists() else {"cpu": 1 << 40}
        self.name = list(self._bytes)[slot % len(self._bytes)]

    def own(self) -> Device:
        words = "toy device" if self.name == "cpu" else self.name
        return Device("cpu", "float32", words, self._bytes[self.name])

    def facts(self) -> DeviceFacts:
        return DeviceFacts(self.name, self.own().words, self._bytes[self.name])

    def words(self) -> tuple[str, ...]:
        return tuple(self._bytes)


def parse_spec(value: Mapping[str, Any]) -> ToySpec:
    return ToySpec.model_validate(value)


class ToyKind:
    """Both kinds run the same; imports nothing of the lab's own kinds, so that a lane starts at once."""

    def load_run(self) -> Run:
        return run


KINDS = {"toy": ToyKind(), "toychat": ToyKind()}
