"""A host that is cut off loses its jobs to another within 20 seconds, and publishes nothing when it returns.

Three hosts: web (with Postgres) and two workers, each with a data folder of its own; models go through an
object store, which a host that is cut off can still reach: the worst case for a late upload.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from host_kinds import HELD
from network import WEB, Network, make_network
from servers import sqlalchemy_url
from test_interrupted_work import merge_spec, tune_spec
from tiny_models import Bench as TinyModels

from lab.core.settings import Settings, child_environment
from lab.core.spec import JobSpec
from lab.core.store import Store
from lab.core.store.rows import JobRow
from lab.merge.spec import MergeSpec
from lab.models.catalog import Catalog
from lab.models.janitor import Janitor
from lab.models.publish import read_manifest
from lab.models.spec import ImportSpec
from lab.models.storeroom import Storeroom, key_of

HERE = Path(__file__).parent
PROMISE_SECONDS = 20.0


@dataclass
class Process:
    """A process on one host, and the lines that it has said."""

    popen: "subprocess.Popen[str]"
    said: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def order(self, **what: object) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(json.dumps(what) + "\n")
        self.popen.stdin.flush()

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self.said.append(json.loads(line))


@dataclass
class Hosts:
    """The web host, the worker hosts, and what this test knows of them all."""

    folder: Path
    network: Network
    running: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(sqlalchemy_url(self.network.url("")))

    def settings(self, host: str) -> Settings:
        return Settings(
            data=self.folder / host,
            database_url=self.network.url(host),
            store_url=f"file://{self.folder}/objects",
        )

    def start(self, host: str, script: str) -> None:
        settings = self.settings(host)
        environment = {
            **child_environment(),
            "LAB_DATA": str(settings.data),
            "LAB_DATABASE_URL": settings.database_url,
            "LAB_STORE_URL": settings.store_url,
        }
        popen = subprocess.Popen(
            self.network.on(host, [sys.executable, str(HERE / script)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.running[host] = Process(popen)

    def start_worker(self, host: str) -> None:
        """Start a worker host and wait until it takes jobs."""
        self.start(host, "host_lane.py")
        self.wait(f"{host} to be at work", lambda: self.is_at_work(host), 90)

    def is_at_work(self, host: str) -> bool:
        pid = self.running[host].popen.pid
        rows = self.store.workers.list()
        return any(row.id.endswith(f"-{pid}") and row.is_alive and row.device for row in rows)

    def told(self, key: str) -> list[dict[str, Any]]:
        """Return what the web host has said so far of one kind."""
        return [line for line in list(self.running[WEB].said) if key in line]

    def submit(self, spec: JobSpec) -> str:
        """Hand a job in on the web host, and read its events there from now on."""
        before = len(self.told("submitted"))
        self.running[WEB].order(submit=spec.model_dump(mode="json"))
        self.wait("the web host to take the job", lambda: len(self.told("submitted")) > before, 20)
        job = str(self.told("submitted")[-1]["submitted"])
        self.running[WEB].order(follow=job)
        return job

    def events(self, job: str) -> list[dict[str, Any]]:
        """Return the events of a job that the web host has read, in the order in which it read them."""
        return [line for line in self.told("seq") if line["job"] == job]

    def states(self, job: str) -> list[tuple[str, int]]:
        return [(event["state"], event["attempt"]) for event in self.events(job) if event["kind"] == "state"]

    def host_of(self, row: JobRow) -> str:
        pid = str(row.worker_id).rpartition("-")[2]
        return next(host for host, process in self.running.items() if process.popen.pid == int(pid))

    def wait(self, what: str, is_true: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            dead = [host for host, process in self.running.items() if process.popen.poll()]
            if dead:
                pytest.fail(f"the processes of {dead} ended while we waited for {what}")
            if time.monotonic() > deadline:
                rows = [(row.title, row.state, row.attempt, row.error_text) for row in self.store.jobs.list()]
                pytest.fail(f"waited {seconds:.0f} s for {what}; jobs: {rows}")
            time.sleep(0.05)

    def wait_for_end(self, job: str, seconds: float = 60.0) -> JobRow:
        self.wait("the job's end", lambda: self.store.jobs.get(job).is_terminal, seconds)
        row = self.store.jobs.get(job)
        assert row.state == "succeeded", row.error_text
        return row


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    network = make_network(["one", "two"])
    made = Hosts(tmp_path, network)
    yield made
    for process in made.running.values():
        process.end()
    made.store.close()
    network.close()


def stock(hosts: Hosts, models: TinyModels, folder: Path) -> None:
    """Bring models and data into the lab as a person would."""
    data = folder / "squares.jsonl"
    data.write_text("".join(f'{{"instruction": "{n}?", "output": "{n * n}!"}}\n' for n in range(40)))
    hosts.running[WEB].order(dataset=[str(data), "squares"])
    names = ("base", "pirate", "sums")
    jobs = [hosts.submit(ImportSpec(path=str(getattr(models, name)), name=name)) for name in names]
    for job in jobs:
        hosts.wait_for_end(job)
    hosts.wait("the dataset", lambda: bool(hosts.told("dataset")), 20)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_other_host_takes_the_jobs_of_one_that_is_cut_off(
    hosts: Hosts, bench: TinyModels, tmp_path: Path
) -> None:
    hosts.start(WEB, "web_host.py")
    hosts.start_worker("one")
    stock(hosts, bench, tmp_path)
    held = {hosts.submit(merge_spec("held-merge")), hosts.submit(tune_spec("held-tune"))}
    for job in held:
        hosts.wait("its middle", lambda job=job: HELD in str(hosts.events(job)), 60)  # type: ignore[misc]
    hosts.start_worker("two")
    hosts.wait_for_end(hosts.submit(merge_spec("whole")))  # by either: a short job finds a place beside them

    cut = hosts.store.database.time()
    hosts.network.cut("one")
    for job in held:
        hosts.wait("the second attempt", lambda job=job: ("running", 2) in hosts.states(job), 60)  # type: ignore[misc]
        again = next(
            event for event in hosts.events(job) if event.get("state") == "running" and event["attempt"] == 2
        )
        print(f"run again {again['time'] - cut:.1f} s after the cut")
        assert again["time"] - cut <= PROMISE_SECONDS
    for job in held:
        row = hosts.wait_for_end(job)
        assert (hosts.host_of(row), row.attempt) == ("two", 2)

    hosts.network.mend("one")
    hosts.wait("the first host to return", lambda: hosts.is_at_work("one"), 60)
    check_nothing_was_published_twice(hosts, held)
    for job in held:
        check_the_reader_saw_one_job(hosts, job)
    check_the_returned_host_works(hosts)


def check_nothing_was_published_twice(hosts: Hosts, held: set[str]) -> None:
    """Make sure that every listed model is the second attempt's, and that the store holds nothing else."""
    models = hosts.store.models.list()
    assert {row.name for row in models} == {"base", "pirate", "sums", "whole", "held-merge", "held-tune"}
    for row in models:
        folder = Catalog(hosts.store, hosts.settings("two")).model(row.name)
        assert read_manifest(folder).attempt == (2 if row.job_id in held else 1)
    Janitor(hosts.settings("two"), hosts.store).sweep(older_than=0)
    room = Storeroom(hosts.settings("two").store_url)
    assert sorted(room.keys("models")) == sorted(map(key_of, models))


def check_the_reader_saw_one_job(hosts: Hosts, job: str) -> None:
    """Make sure that the web host read every event once, in order, to one end."""
    stored = hosts.store.events.after(job, 0)
    hosts.wait("the reader", lambda: len(hosts.events(job)) >= len(stored), 20)
    read = hosts.events(job)
    assert [event["seq"] for event in read] == list(range(1, len(stored) + 1))
    states = hosts.states(job)
    assert states == [("queued", 0), ("running", 1), ("queued", 1), ("running", 2), ("succeeded", 2)]


def check_the_returned_host_works(hosts: Hosts) -> None:
    """Let the host that came back make a model from one that it has never seen."""
    hosts.running["two"].popen.terminate()
    hosts.running["two"].popen.wait(60)
    from_others = [{"model": name, "parameters": {"weight": 0.5}} for name in ("whole", "held-merge")]
    spec = MergeSpec.model_validate({"name": "after", "method": "linear", "models": from_others})
    row = hosts.wait_for_end(hosts.submit(spec))
    assert hosts.host_of(row) == "one"
    assert (hosts.settings("one").models / "held-merge" / "manifest.json").is_file()  # fetched from the store
