"""Small real jobs while processes are killed at random: `make chaos`, and `make soak` for a long calm one.

A child is killed every 0.3 to 1 s, and every 20 to 40 s a whole consumer or the page; with `--every` one
child at that pace, and every tenth time a consumer instead. A minute after the last kill every job must have
ended, each model published once, no event missing. An answer that was cut off counts as ended.
"""

# ruff: noqa: E402  the tests' folders are put on the path first

import argparse
import asyncio
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
from chaos_curves import Curves
from chaos_lab import ChaosLab, make_lab, make_spec
from chaos_verdict import Verdict, judge

from benchmarks.tab import PageError, Site, call
from lab.core.store.rows import LIVE

MOST_WAITING = 16
CALM_SECONDS = 60.0
REPORT_SECONDS = 15.0


@dataclass
class Storm:
    """When the next kills are due, by the monotonic clock.

    Args:
        lab: what is killed.
        every: seconds between two kills; 0 for the quick pace.
    """

    lab: ChaosLab
    every: float
    count: int = 0

    def __post_init__(self) -> None:
        self.small = time.monotonic() + (self.every or 1.0)
        self.whole = time.monotonic() + 20.0

    def blow(self) -> None:
        """Kill what is due."""
        now = time.monotonic()
        if now >= self.small:
            self.count += 1
            self.small = now + (self.every or self.lab.chance.uniform(0.3, 1.0))
            if self.every and self.count % 10 == 0:
                self.lab.kill_something_whole()
            else:
                self.lab.kill_a_child()
        if not self.every and now >= self.whole:
            self.whole = now + self.lab.chance.uniform(20, 40)
            self.lab.kill_something_whole()


@dataclass
class Visitor(threading.Thread):
    """Somebody who opens pages and follows answers all the while, also while the page is dead."""

    lab: ChaosLab
    answers: int = 0
    refusals: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True, name="visitor")

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        asyncio.run(self._visit())

    async def _visit(self) -> None:
        async with httpx.AsyncClient(timeout=10) as http:
            while not self.ended.is_set():
                try:
                    await asyncio.wait_for(self._look(http), 30)
                    self.answers += 1
                except (httpx.HTTPError, PageError, TimeoutError):
                    self.refusals += 1
                await asyncio.sleep(2)

    async def _look(self, http: httpx.AsyncClient) -> None:
        site = await Site.of(http, self.lab.url)
        (await http.get(self.lab.url)).raise_for_status()
        chats = self.lab.store.jobs.list(kinds=["compare"], limit=1)
        for name, address in (("jobs_open", {}), ("compare_resume", {"run": chats[0].id} if chats else {})):
            async for _ in call(http, site, name, session="visitor", **address):
                pass


@dataclass
class Crowd:
    """Submits jobs, some of them twice by mistake, and keeps a few waiting."""

    lab: ChaosLab
    most: int
    submitted: list[str] = field(default_factory=list)
    _live: int = 0
    _counted: float = float("-inf")

    def __post_init__(self) -> None:
        self.chance = random.Random(self.lab.chance.random())

    def live(self) -> int:
        """Return how many jobs have not ended; asked four times a second at most."""
        if time.monotonic() > self._counted + 0.25:
            self._counted = time.monotonic()
            self._live = len(self.lab.store.jobs.list(states=LIVE, limit=1000))
        return self._live

    def submit(self) -> None:
        """Keep a few jobs waiting."""
        while self._live < MOST_WAITING and (not self.most or len(self.submitted) < self.most):
            number = len(self.submitted)
            spec = make_spec(number, self.chance)
            clicks = 2 if self.chance.random() < 0.1 else 1
            owner = "local" if spec.kind == "compare" else f"user-{number % 5}"  # the visitor looks at chats
            ids = {self.lab.desk.submit(spec, owner, f"click-{number}").id for _ in range(clicks)}
            assert len(ids) == 1, "a double click made two jobs"
            self.submitted += ids
            self._live += 1


def run(lab: ChaosLab, jobs: int, seconds: float, every: float, curves: Curves) -> Verdict:
    """Submit and kill until all jobs have ended or the time is up; wait; look what became of them."""
    crowd, storm, visitor = Crowd(lab, jobs), Storm(lab, every), Visitor(lab)
    visitor.start()
    begun = told = time.monotonic()
    while time.monotonic() - begun < seconds:
        live = crowd.live()
        if jobs and len(crowd.submitted) == jobs and not live:
            break
        crowd.submit()
        storm.blow()
        lab.mend()
        curves.look(lab.processes())
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            print(
                f"{told - begun:5.0f} s: {len(crowd.submitted) - live} ended, {live} live, {lab.kills}",
                flush=True,
            )
        time.sleep(0.05)
    last_kill = time.monotonic()
    while crowd.live() and time.monotonic() - last_kill < CALM_SECONDS:
        lab.mend()
        curves.look(lab.processes())
        time.sleep(0.2)
    calm = time.monotonic() - last_kill
    visitor.ended.set()
    visitor.join(40)
    print(f"{last_kill - begun:.0f} s of kills, then {calm:.0f} s of calm; kills: {lab.kills}")
    print(f"the visitor was answered {visitor.answers} times and refused {visitor.refusals} times")
    return judge(lab.store, lab.settings.models, crowd.submitted)


def main() -> int:
    """Run it; 1 when a job was lost, published twice or stuck, or anything else is not as it should be."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="how many; 0 for as many as the time allows")
    parser.add_argument("--seconds", type=float, default=1140, help="of kills at most (default 1140)")
    parser.add_argument("--every", type=float, default=0, help="seconds between kills (default 0.3 to 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("sqlite", "postgres", "redis"), default="sqlite")
    parser.add_argument("--csv", type=Path, help="where the curves of memory and open files go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        lab = make_lab(asked.backend, Path(folder), asked.seed)
        curves = Curves(asked.csv)
        try:
            lab.start()
            verdict = run(lab, asked.jobs, asked.seconds, asked.every, curves)
        finally:
            with suppress(KeyboardInterrupt):
                lab.close()
        curves.write()
    report(verdict, curves)
    return 0 if verdict.is_good else 1


def report(verdict: Verdict, curves: Curves) -> None:
    """Print the counts, what is wrong, and the last line."""
    print(f"ends: {dict(sorted(verdict.ends.items()))}; {verdict.attempts} attempts")
    for line in curves.words():
        print(line)
    for name in ("lost", "twice", "stuck", "faulty"):
        for words in getattr(verdict, name)[:20]:
            print(f"{name}: {words}")
    print(verdict.last_line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
