"""What a job costs beside its work: jobs that do nothing, through every database and queue.

Starts labs of its own in temporary folders; for Postgres and Redis with servers of its own, as the tests do.
"""

# ruff: noqa: E402  the tests' folder is put on the path first

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from servers import POSTGRES_PROGRAMS, Backend, make_postgres, make_redis

from benchmarks import noop_kinds
from benchmarks.page import p95, within
from benchmarks.table import Row
from lab.core.settings import Settings
from lab.core.spec import spec_sha256
from lab.core.store import NewJob, Store, Success, open_store
from lab.jobs import Desk
from lab.models.catalog import Catalog
from workers.queue import make_bells

JOBS = 1000
WORKERS = 4
STARTS = 40
TARGETS = {"sqlite": (50, 0.1), "postgres": (300, 0.1), "redis": (300, 0.02)}
"""By backend: whole lives of jobs a second, and seconds from submitting to starting."""


def measure() -> list[Row]:
    """Load every queue."""
    rows: list[Row] = []
    for name in TARGETS:
        if name != "sqlite" and not POSTGRES_PROGRAMS:
            rows.append(Row(f"{name}: jobs that do nothing", "", note="PostgreSQL is not installed"))
            continue
        with tempfile.TemporaryDirectory() as folder, backend(name) as chosen:
            rows += queue_rows(chosen, Path(folder))
    return rows


def queue_rows(chosen: Backend, folder: Path) -> list[Row]:
    """Measure jobs that do nothing, from submitting to their ends, on one backend."""
    settings = chosen.settings(folder)
    store = open_store(settings)
    desk = Desk(store, Catalog(store, settings), make_bells(settings), kinds=noop_kinds.KINDS)
    at_least, at_most = TARGETS[chosen.name]
    with consumer(settings, chosen) as worker:
        live(desk, 20)  # the engine is there and warm
        starts = [start_of(desk, number) for number in range(STARTS)]
        spent, begun = cpu_seconds(worker), time.monotonic()
        live(desk, JOBS)
        each = (time.monotonic() - begun) / JOBS
        cost = {name: (now - spent.get(name, 0.0)) / JOBS for name, now in cpu_seconds(worker).items()}
    writes = cost_of_writes(store)
    store.close()
    name = f"{chosen.name}: "
    rate = 1 / each
    words = ", ".join(f"{part} {1000 * seconds:.1f} ms" for part, seconds in cost.items())
    alone = f"{STARTS} jobs, one at a time"
    return [
        within(f"{name}submitted to started, p95", p95(starts), at_most, "s", alone),
        Row(f"{name}whole lives of jobs", f"{rate:.0f} a second", f"at least {at_least}", rate >= at_least,
            f"{JOBS} jobs, {WORKERS} workers; CPU a job: {words}"),
        Row(f"{name}a job's writes alone, one after another", f"{writes:.0f} lives a second",
            note="insert, claim, name the device, succeed: one process, no queue"),
    ]  # fmt: skip


def live(desk: Desk, count: int) -> None:
    """Submit jobs and wait until the last one has ended."""
    ids = [desk.submit(noop_kinds.NoopSpec(number=n), "local").id for n in range(count)]
    deadline = time.monotonic() + 240
    while desk.store.jobs.list(states=("queued", "running"), limit=1):
        if time.monotonic() > deadline:
            raise RuntimeError("The jobs that do nothing did not end within four minutes.")
        time.sleep(0.01)
    states = {desk.store.jobs.get(job_id).state for job_id in (ids[0], ids[-1])}
    if states != {"succeeded"}:
        raise RuntimeError(f"Jobs that do nothing ended as {states}.")


def start_of(desk: Desk, number: int) -> float:
    """Return the seconds from submitting a job to its start, by the database's clock."""
    time.sleep(0.05 + 0.005 * number)
    job = desk.submit(noop_kinds.NoopSpec(number=number), "local")
    while not job.is_terminal:
        time.sleep(0.005)
        job = desk.store.jobs.get(job.id)
    return (job.started or 0.0) - job.created


def new_job(kind: str, lane: str, spec: Any) -> NewJob:
    """Make a job's row as the desk does, without its checks."""
    told = spec.model_dump(mode="json")
    return NewJob("local", uuid.uuid4().hex, kind, lane, spec.title, told, spec_sha256(spec), False)


def cost_of_writes(store: Store, count: int = 200) -> float:
    """Return how many jobs' writes a second one process gets into the database."""
    begun = time.monotonic()
    for number in range(count):
        job, _ = store.jobs.insert(new_job("noop", "chat", noop_kinds.NoopSpec(number=number)))
        store.jobs.claim("chat", "bench", "nothing")
        store.jobs.name_device(job.id, 1, "nothing")
        store.jobs.succeed(job.id, 1, Success())
    return count / (time.monotonic() - begun)


def cpu_seconds(worker: psutil.Process) -> dict[str, float]:
    """Return the CPU seconds spent so far: submitting, by the consumer, by its children."""
    children = sum(sum(one.cpu_times()[:2]) for one in worker.children(recursive=True))
    return {
        "submitting": time.process_time(),
        "consumer": sum(worker.cpu_times()[:2]),
        "engine": children,
    }


@contextmanager
def backend(name: str) -> Iterator[Backend]:
    """Start the servers that a backend needs."""
    postgres = make_postgres() if name != "sqlite" else None
    redis = make_redis() if name == "redis" else None
    try:
        url = postgres.fresh() if postgres else ""
        yield Backend(name, url, redis.url if redis else "", postgres, redis)
    finally:
        for server in (redis, postgres):
            if server is not None:
                server.remove()


@contextmanager
def consumer(settings: Settings, chosen: Backend) -> Iterator[psutil.Process]:
    """Run the chat lane, whose warm engine serves every job: nothing is forked for a job."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.noop_lane", "chat", str(WORKERS)],
        cwd=ROOT,
        env={**os.environ, **chosen.environment(), "LAB_DATA": str(settings.data)},
        stdin=subprocess.PIPE,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
