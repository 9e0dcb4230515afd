"""Starts the companions of a fine-tune, one for each further device, and sees to it that all end together.

The job's process leads. Whatever ends it, a kill included, ends its companions: the kernel kills them with
it, they are of its process group, and their standard input closes. A companion that is lost ends the attempt.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lab.core.errors import ProcessLost
from lab.core.job import PARTNER_LOST, Job
from lab.core.settings import child_environment
from lab.tune.errand import OUT_OF_MEMORY, Errand
from lab.tune.plan import Plan
from lab.tune.ranks import ALONE, Ranks, environment, meeting
from lab.tune.spec import TuneSpec

ROOT = Path(__file__).parents[2]
READY_SECONDS = 600.0
LOST_SECONDS = 5.0
"""How long the leader, which has seen an error, waits to learn that a companion's end was its cause."""

HANGING_SECONDS = 20.0
"""How long a leader may go on waiting for a companion that is lost, where the backend doesn't tell it."""

END_SECONDS = 10.0
POLL_SECONDS = 0.05


@dataclass
class Companions:
    """The running companions of one fine-tune.

    Attributes:
        errands: what each was told.
        processes: each one's process, in the same order.
    """

    errands: list[Errand] = field(default_factory=list)
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self, errand: Errand, more: dict[str, str]) -> None:
        """Start one with its errand, in an environment with something more than ours."""
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.tune.companion"],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env={**child_environment(), **more},
        )
        self.errands.append(errand)
        self.processes.append(process)
        if process.stdin is not None:
            process.stdin.write(errand.as_line())
            process.stdin.flush()

    def wait_until_ready(self, job: Job) -> None:
        """Wait until every companion is about to meet us.

        Raises:
            ControlFlow: the job is to end meanwhile.
            ProcessLost: one of them ended.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not all(errand.ready.exists() for errand in self.errands):
            job.breathe()
            if self.lost(0) or time.monotonic() > deadline:
                raise ProcessLost(self.lost(0) or "a further process of the fine-tune did not start")
            time.sleep(POLL_SECONDS)

    def lost(self, seconds: float) -> str:
        """Return which companion has failed, in words, waiting so long for one; "" when none has."""
        deadline = time.monotonic() + seconds
        while True:
            for errand, process in zip(self.errands, self.processes, strict=True):
                if process.poll():
                    return _words(errand, process.returncode)
            if time.monotonic() >= deadline:
                return ""
            time.sleep(POLL_SECONDS)

    def ran_out_of_memory(self) -> bool:
        """Whether a companion ended because its memory did not do."""
        return any(process.poll() == OUT_OF_MEMORY for process in self.processes)

    def watch(self) -> None:
        """End this process where a companion is lost and the backend leaves us waiting for it."""
        for process in self.processes:
            threading.Thread(target=self._watch, args=(process,), daemon=True, name="companion").start()

    def end(self, in_peace: bool) -> None:
        """Wait for the companions to leave, where all went well; kill those that are left."""
        self._over.set()
        for process in self.processes:
            if in_peace:
                _wait(process, END_SECONDS)
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        if process.wait() and not self._over.wait(HANGING_SECONDS):
            os._exit(PARTNER_LOST)


@contextmanager
def team(spec: TuneSpec, plan: Plan, job: Job, base: Path, checkpoint: Path | None) -> Iterator[Ranks]:
    """Have a companion train on each further device that the job holds, as long as the context lasts.

    Args:
        spec: what was asked for.
        plan: the run's numbers.
        job: its partners are the further devices.
        base: the base model's folder.
        checkpoint: the one to go on from.

    Yields:
        Our place among the processes: the leader's.

    Raises:
        ProcessLost: a companion was lost.
        MemoryError: a companion's memory ran out.
    """
    if not job.partners:
        yield ALONE
        return
    ranks, companions, is_well = Ranks(0, 1 + len(job.partners), job.device.torch), Companions(), False
    with TemporaryDirectory() as folder:
        try:
            for errand in _errands(spec, plan, job, base, checkpoint, Path(folder) / "meeting"):
                own = environment(Ranks(errand.rank, errand.size, job.device.torch))
                companions.start(errand, {**own, **job.partners[errand.rank - 1].environment})
            companions.wait_until_ready(job)
            companions.watch()
            with meeting(ranks, Path(folder) / "meeting"):
                yield ranks
                is_well = True
        except RuntimeError as error:
            if why := companions.lost(LOST_SECONDS):
                if companions.ran_out_of_memory():
                    raise MemoryError(why) from error
                raise ProcessLost(why) from error
            raise
        finally:
            companions.end(in_peace=is_well)


def _errands(
    spec: TuneSpec, plan: Plan, job: Job, base: Path, checkpoint: Path | None, place: Path
) -> Sequence[Errand]:
    return [
        Errand(
            rank=rank,
            size=1 + len(job.partners),
            leader=os.getpid(),
            meeting=str(place),
            spec=spec.model_dump(mode="json"),
            plan=asdict(plan),
            device=asdict(job.device),
            base=str(base),
            data=str(job.dataset(spec.dataset)),
            checkpoints=str(job.folder / "companions"),
            checkpoint=str(checkpoint or ""),
            threads=torch.get_num_threads(),
        )
        for rank in range(1, 1 + len(job.partners))
    ]


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _words(errand: Errand, code: int) -> str:
    how = f"was killed (signal {-code})" if code < 0 else f"ended with code {code}"
    return f"process {errand.rank + 1} of the {errand.size} that trained together {how}"
