"""The lab that chaos.py torments: real consumers, a real page, tiny models, and jobs made from a seed."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from servers import Backend, free_port, make_postgres, make_redis
from tiny_models import write_bench
from worked_lab import HERE, Lab, stock_model

from lab.compare.spec import CompareSpec
from lab.core.settings import Settings
from lab.core.spec import JobSpec
from lab.core.store import open_store
from lab.core.store.rows import DatasetRow
from lab.jobs import Desk
from lab.merge.spec import MergeSpec
from lab.models.catalog import Catalog
from lab.models.spec import StarterSpec
from lab.tune.spec import TuneSpec
from workers.queue import make_bells
from workers.start import Workers

ROOT = HERE.parents[1]
CHAT_SHARE = 0.3
"""How many of the small kills strike the chat lane: its one process answers two questions at a time."""
SERVER_SHARE = 0.005
"""How many strike the fork server that the children come from."""


def lane_command(lane: str) -> list[str]:
    """Return the command line of one lane's consumer."""
    return [sys.executable, str(HERE / "chaos_lane.py"), lane]


@dataclass
class ChaosLab:
    """A lab with everything running. `workers` starts a dead consumer again; `mend` a dead page."""

    backend: Backend
    settings: Settings
    chance: random.Random
    kills: dict[str, int] = field(default_factory=dict)
    web: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.store = open_store(self.settings)
        self.desk = Desk(self.store, Catalog(self.store, self.settings), make_bells(self.settings))
        self.url = f"http://127.0.0.1:{self.settings.port}"

    def start(self) -> None:
        """Start the page and the consumers of both lanes."""
        self.mend()
        self.workers = Workers(self.settings, command=lane_command)

    def mend(self) -> None:
        """Start the page again where it is dead, as whoever runs a server has it done."""
        if self.web is not None and self.web.poll() is None:
            return
        ours = {"LAB_DATA": str(self.settings.data), "LAB_PORT": str(self.settings.port), "LAB_WORKERS": "0"}
        self.web = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env={**os.environ, **self.backend.environment(), **ours},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_a_child(self) -> None:
        """Kill a process that does a job or waits for one; now and then the fork server they come from."""
        lane = "chat" if self.chance.random() < CHAT_SHARE else "batch"
        consumer = self.workers.processes[lane]
        with suppress(psutil.Error):
            under = psutil.Process(consumer.pid).children()
            servers = [one for one in under if "forkserver" in " ".join(one.cmdline())]
            children = [one for server in servers for one in server.children()]
            if servers and self.chance.random() < SERVER_SHARE:
                self._kill(f"{lane} fork server", self.chance.choice(servers))
            elif children:
                self._kill(f"{lane} child", self.chance.choice(children))

    def kill_something_whole(self) -> None:
        """Kill a consumer, alone or with all that is under it, or the page."""
        name = self.chance.choice(("batch", "chat", "web"))
        if name == "web":
            if self.web is not None and self.web.poll() is None:
                self._kill("web", psutil.Process(self.web.pid))
            return
        with suppress(psutil.Error):
            consumer = psutil.Process(self.workers.processes[name].pid)
            under = consumer.children(recursive=True) if self.chance.random() < 0.5 else []
            self._kill(f"{name} consumer", consumer)
            for one in under:
                with suppress(psutil.NoSuchProcess):
                    one.kill()

    def _kill(self, name: str, process: psutil.Process) -> None:
        process.kill()
        self.kills[name] = self.kills.get(name, 0) + 1

    def processes(self) -> dict[str, psutil.Process]:
        """Return the long-lived processes, by name."""
        found = {}
        started = {"web": self.web, **self.workers.processes}
        for name, process in started.items():
            with suppress(psutil.Error):
                if process is not None and process.poll() is None:
                    found[name] = psutil.Process(process.pid)
        return found

    def close(self) -> None:
        """End everything."""
        if self.web is not None:
            self.web.kill()
            self.web.wait()
        self.workers.stop()
        self.store.close()
        for server in (self.backend.redis, self.backend.postgres):
            if server is not None:
                server.remove()


def make_lab(backend: str, data: Path, seed: int) -> ChaosLab:
    """Make a lab with tiny models and a small dataset, not yet started."""
    postgres = make_postgres() if backend in ("postgres", "redis") else None
    redis = make_redis() if backend == "redis" else None
    chosen = Backend(
        backend, postgres.fresh() if postgres else "", redis.url if redis else "", postgres, redis
    )
    lab = ChaosLab(chosen, chosen.settings(data, threads=1, port=free_port()), random.Random(seed))
    bench = write_bench(data / "bench")
    (data / "spare").mkdir()
    shelf = Lab(lab.settings, lab.store, lab.desk.bells, chosen)  # type: ignore[arg-type]
    for name in ("base", "pirate", "sums"):
        stock_model(shelf, getattr(bench, name), name, data / "spare")
    stock_model(shelf, bench.deep, StarterSpec().name, data / "spare")  # so that the page fetches none
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n * n}!"}]}
        for n in range(24)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (lab.settings.datasets / "squares.jsonl").write_text(text)
    lab.store.datasets.insert(DatasetRow("squares", "test", {}, len(text), "", 0.0))
    return lab


def make_spec(number: int, chance: random.Random) -> JobSpec:
    """Make one small job: half of them merges, a sixth fine-tunes, the rest chats."""
    draw = chance.random()
    if draw < 1 / 2:
        told = [{"model": name, "parameters": {"density": 0.5, "weight": 1.0}} for name in ("pirate", "sums")]
        return MergeSpec.model_validate(
            {"name": f"merge-{number}", "method": "ties", "base_model": "base", "models": told}
        )
    if draw < 2 / 3:
        return TuneSpec(
            model="base", dataset="squares", name=f"tune-{number}", max_steps=6, batch=2, rank=2,
            checkpoint_steps=2, held_out=2, seed=number,
        )  # fmt: skip
    return CompareSpec(
        models=("base", "pirate")[: chance.randint(1, 2)],
        prompt=f"Question {number}?",
        max_new_tokens=chance.choice((8, 32, 96)),
        seed=number,
    )
