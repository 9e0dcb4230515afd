"""A lab whose worker processes the tests start, stop and kill, each by its own process id."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest
from servers import Backend
from toy_kind import ToySpec

from lab.core.job import NewModel
from lab.core.settings import Settings, child_environment
from lab.core.spec import JobSpec, spec_sha256
from lab.core.store import NewJob, Store, Success
from lab.core.store.rows import JobRow
from lab.models.publish import finish, model_row, place
from workers.queue import Bell

HERE = Path(__file__).parent
LEASE_SECONDS = 2.0

on_every_backend = pytest.mark.parametrize(
    "lab",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.slow),
        pytest.param("redis", marks=pytest.mark.slow),
    ],
    indirect=True,
)
"""Runs a test on the `lab` fixture three times; `make test` runs it on SQLite only."""


@dataclass
class Lab:
    """A data folder, its store and bells, the servers behind them, and the consumers started so far."""

    settings: Settings
    store: Store
    bells: dict[str, Bell]
    backend: Backend
    consumers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(
        self, lane: str = "batch", failpoint: str = "", stall: float = 30.0, **pace: float
    ) -> psutil.Process:
        """Start a consumer; it is handed back before it is ready. toy_lane.py says what `pace` may be."""
        return self._start(["toy_lane.py", *self.toy_arguments(lane, stall, **pace)], failpoint)

    def toy_arguments(self, lane: str, stall: float = 30.0, **pace: float) -> list[str]:
        """Return what toy_lane.py is called with."""
        told = {"lease_seconds": LEASE_SECONDS, "stall_seconds": stall, **pace}
        return [str(self.settings.data), lane, json.dumps(told)]

    def start_real(self, lane: str = "batch", failpoint: str = "") -> psutil.Process:
        """Start a consumer for the lab's own kinds of jobs, at its own pace."""
        return self._start(["real_lane.py", str(self.settings.data), lane], failpoint)

    def _start(self, command: list[str], failpoint: str) -> psutil.Process:
        script, *arguments = command
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            env={**child_environment(), **self._environment(), "LABFAIL": failpoint},
            start_new_session=True,
        )
        self.consumers.append(process)
        return psutil.Process(process.pid)

    def _environment(self) -> dict[str, str]:
        return {
            "LAB_DATA": str(self.settings.data),  # `processes` knows them by it
            "LAB_DATABASE_URL": self.settings.database_url,
            "LAB_QUEUE_URL": self.settings.queue_url,
            "LAB_QUEUE_KEY": self.settings.queue_key,
        }

    def processes(self) -> list[psutil.Process]:
        """Return every process that a consumer of this lab is or has left behind."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("LAB_DATA") == str(self.settings.data):
                    found.append(process)
        return survivors(found)

    def submit(self, spec: ToySpec, ring: bool = True) -> str:
        """Queue a toy job and, unless its bell is to be lost, ring for it."""
        lane = "chat" if spec.kind == "toychat" else "batch"
        return self.submit_spec(spec.kind, spec, lane, ring)

    def submit_spec(self, kind: str, spec: JobSpec, lane: str = "batch", ring: bool = True) -> str:
        """Queue a job of any kind; jobs of the chat lane can't go on midway."""
        new = NewJob(
            owner="test",
            key=str(time.monotonic_ns()),
            kind=kind,
            lane=lane,
            title=kind,
            spec=spec.model_dump(mode="json"),
            spec_sha256=spec_sha256(spec),
            resumable=lane == "batch",
            promises=spec.models_made(),
        )
        row, _ = self.store.jobs.insert(new)
        if ring:
            self.bells[new.lane].ring(row.id)
        return row.id

    def row(self, job_id: str) -> JobRow:
        return self.store.jobs.get(job_id)

    def wait(self, what: str, is_true: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until something is true, or fail saying what it was."""
        deadline = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > deadline:
                rows = [(row.state, row.attempt, row.error_text) for row in self.store.jobs.list()]
                pytest.fail(f"waited {seconds:.0f} s for {what}; jobs: {rows}")
            time.sleep(0.02)

    def wait_for_end(self, job_id: str, seconds: float = 20.0) -> JobRow:
        """Wait until a job has ended and return its row."""
        self.wait("the job's end", lambda: self.row(job_id).is_terminal, seconds)
        return self.row(job_id)

    def wait_for_step(self, job_id: str, attempt: int = 1, seconds: float = 20.0) -> int:
        """Wait until an attempt has done a step; return its process id."""
        self.wait(f"a step of attempt {attempt}", lambda: bool(self.steps(job_id, attempt)), seconds)
        return self.steps(job_id, attempt)[-1][2]

    def steps(self, job_id: str, attempt: int | None = None) -> list[tuple[int, int, int]]:
        """Return (step, attempt, process id) of every step that was done, in order."""
        ledger = self.settings.jobs / job_id / "ledger"
        if not ledger.exists():
            return []
        lines = [tuple(int(part) for part in line.split()) for line in ledger.read_text().splitlines()]
        return [line for line in lines if attempt in (None, line[1])]  # type: ignore[misc]

    def states(self, job_id: str) -> list[str]:
        """Return the states that a job's events tell, in order."""
        events = self.store.events.after(job_id, 0)
        return [event.payload["state"] for event in events if event.kind == "state"]

    def check_events(self, job_id: str) -> None:
        """Make sure that the sequence has no gap."""
        numbers = [event.seq for event in self.store.events.after(job_id, 0)]
        assert numbers == list(range(1, len(numbers) + 1))

    def check_steps(self, job_id: str, steps: int) -> None:
        """Make sure that each step was done, and that a crash repeated at most the one that it cut off."""
        done = [step for step, _, _ in self.steps(job_id)]
        assert sorted(set(done)) == list(range(steps))
        assert len(done) <= steps + self.row(job_id).crash_count

    def check_success(self, job_id: str, spec: ToySpec, crashes: int | None = None) -> JobRow:
        """Wait until a job has succeeded, and make sure that nothing of it is missing or there twice."""
        row = self.wait_for_end(job_id)
        assert row.state == "succeeded", row.error_text
        assert row.crash_count == crashes or crashes is None
        assert row.result == {"steps": spec.steps}
        self.check_steps(job_id, spec.steps)
        self.check_events(job_id)
        assert self.states(job_id).count("succeeded") == 1
        told = [
            event.payload["model"] for event in self.store.events.after(job_id, 0) if event.kind == "artifact"
        ]
        assert told == list(spec.models_made())
        made = [model.name for model in self.store.models.list() if model.job_id == job_id]
        assert made == told
        assert all((self.settings.models / name / "toy.json").is_file() for name in made)
        return row


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a consumer and everything under it (the fork server's children included)."""
    return [process, *process.children(recursive=True)]


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return which of these processes still run."""
    return [one for one in processes if _runs(one)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def each(processes: list[psutil.Process], do: Callable[[psutil.Process], object]) -> None:
    """Do something to each of these processes, but for those that end meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            do(process)


def suspend_between_writes(lab: Lab) -> list[psutil.Process]:
    """Stop every process of a lab at a moment when none of them holds a lock; return them."""
    while True:
        processes = lab.processes()
        each(processes, psutil.Process.suspend)
        if _can_be_written(lab):
            return processes
        each(processes, psutil.Process.resume)
        time.sleep(0.01)


def _can_be_written(lab: Lab) -> bool:
    try:
        if lab.settings.postgres:
            with psycopg.connect(lab.settings.postgres) as probe:
                probe.execute("select 1 from jobs for update nowait")
        else:
            with sqlite3.connect(lab.settings.data / "lab.db", timeout=0.2, isolation_level=None) as probe:
                probe.execute("begin immediate")
                probe.execute("rollback")
    except (sqlite3.OperationalError, psycopg.OperationalError):
        return False
    return True


def stock_model(lab: Lab, source: Path, name: str, spare: Path) -> None:
    """List a model in the way a job would."""
    folder = shutil.copytree(source, spare / name)
    manifest = finish(NewModel(name, folder, "base"), "", "stock", 1)
    place(folder, lab.settings.models / name)
    job = lab.submit_spec("import", JobSpec(kind="import"), ring=False)
    claimed = lab.store.jobs.claim("batch", "test", "none")
    assert claimed is not None
    assert claimed.id == job
    lab.store.jobs.succeed(job, 1, Success(models=[model_row(manifest, "test")]))
