"""What a page does for many people at once: fifty that follow one answer, and fifty that ask.

Starts a lab of its own in a temporary folder, with tiny models that nobody runs: its chat lane says words at
an even pace. The people are tabs without browsers (`benchmarks.tab`), all in this process, which takes about
as much of the machine as the page: on two cores they are in each other's way.
"""

# ruff: noqa: E402  the tests' folder is put on the path first

import asyncio
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from family_of_models import family

from benchmarks.crowd_kinds import WORDS_A_SECOND
from benchmarks.page import free_port, is_open, p95, within
from benchmarks.tab import PageError, Site, call
from benchmarks.table import Row
from lab.compare.spec import CompareSpec
from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.rows import TERMINAL
from lab.jobs import Desk
from lab.models.catalog import Catalog
from workers.queue import make_bells

PEOPLE = 50
SECONDS = 60
QUESTIONS = 200
ASKING_SECONDS = 10.0
LANES = 8
MODELS = ("left", "right")

_LAST_WORD = re.compile(r".*\bw(\d+)\b", re.DOTALL)
_RUN = re.compile(r'data-address="run" data-value="([0-9a-f-]+)"')


@dataclass
class Page:
    """The lab under test.

    Attributes:
        url: where its page is.
        store: its rows.
        process: the process of the page.
    """

    url: str
    store: Store
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return what the page's process has computed so far."""
        return float(sum(self.process.cpu_times()[:2]))


@dataclass
class Seen:
    """What people saw.

    Attributes:
        moments: for each reader, when which word was the last that was there.
        asked: seconds from a question to the first sign of its answer.
        errors: what the page refused.
    """

    moments: list[list[tuple[float, int]]] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def measure(people: int = PEOPLE, seconds: int = SECONDS) -> list[Row]:
    """Let people follow, then ask."""
    with tempfile.TemporaryDirectory() as folder, running_page(Path(folder)) as page:
        return [*following(page, Path(folder), people, seconds), *asking(page, people)]


def following(page: Page, data: Path, people: int, seconds: int) -> list[Row]:
    """Let people follow one answer, and measure how late they see each word."""
    settings = Settings(data=data)
    desk = Desk(page.store, Catalog(page.store, settings), make_bells(settings))
    words = seconds * WORDS_A_SECOND
    seen = Seen()
    spec = CompareSpec(models=MODELS[:1], prompt="Say the words.", max_new_tokens=words)
    job = desk.submit(spec, "local", uuid.uuid4().hex)
    spent, mine, begun = page.cpu_seconds(), time.process_time(), time.monotonic()
    asyncio.run(all_follow(page, job.id, people, seen))
    took = time.monotonic() - begun
    share, own = (page.cpu_seconds() - spent) / took, (time.process_time() - mine) / took
    said = [
        (event.time, int(event.payload["text"].rstrip().rpartition("w")[2]))
        for event in page.store.events.after(job.id, 0)
        if event.kind == "delta"
    ]
    lags = [late for moments in seen.moments for late in lateness(said, moments)]
    lost = sum(not moments or moments[-1][1] != words - 1 for moments in seen.moments) + len(seen.errors)
    name = f"{people} people follow {WORDS_A_SECOND} words a second for {seconds} s: "
    note = f"{len(lags)} words; the people took {own:.0%} of a core"
    return [
        Row(f"{name}errors", f"{lost}", "0", lost == 0, "; ".join(sorted(set(seen.errors)))[:200]),
        within(f"{name}event to tab, p95", p95(lags or [math.inf]), 0.25, "s", note),
        Row(f"{name}the page's process", f"{share:.0%} of a core"),
    ]


def lateness(said: list[tuple[float, int]], moments: list[tuple[float, int]]) -> list[float]:
    """Return for every word the seconds until a reader had it.

    Args:
        said: when which word was said; several may be written down at once, under the last one's number.
        moments: when a reader had which word last, both rising.
    """
    late, at = [], 0
    for moment, number in said:
        while at < len(moments) and moments[at][1] < number:
            at += 1
        if at < len(moments):
            late.append(max(moments[at][0] - moment, 0.0))
    return late


async def all_follow(page: Page, job_id: str, people: int, seen: Seen) -> None:
    """Let people follow a job, each in a tab of their own."""
    async with open_tabs(people) as http:
        site = await Site.of(http, page.url)
        await asyncio.gather(*(follow(http, site, job_id, seen) for _ in range(people)))


async def follow(http: httpx.AsyncClient, site: Site, job_id: str, seen: Seen) -> None:
    """Follow a job in one tab to its end."""
    moments: list[tuple[float, int]] = []
    seen.moments.append(moments)
    try:
        async for outputs in call(http, site, "compare_resume", run=job_id):
            found = _LAST_WORD.match(outputs[0]) if isinstance(outputs[0], str) else None
            if found:
                moments.append((time.time(), int(found[1])))
    except (PageError, httpx.HTTPError) as error:
        seen.errors.append(repr(error))


def asking(page: Page, people: int) -> list[Row]:
    """Let people ask, and measure how soon each sees that the question is taken."""
    seen = Seen()
    spent, mine, begun = page.cpu_seconds(), time.process_time(), time.monotonic()
    asyncio.run(all_ask(page, people, seen))
    took = time.monotonic() - begun
    each = (page.cpu_seconds() - spent) / QUESTIONS  # opening the tabs included
    own = (time.process_time() - mine) / took
    wait_for_rest(page.store)
    asked = [job.spec["prompt"] for job in page.store.jobs.list(kinds=["compare"], limit=1000)]
    known = [prompt for prompt in asked if prompt.startswith("Question ")]
    lost, doubled = QUESTIONS - len(set(known)), len(known) - len(set(known))
    name = f"{QUESTIONS} questions in {ASKING_SECONDS:g} s from {people} people: "
    note = f"the people took {own:.0%} of a core"
    return [
        Row(f"{name}lost", f"{lost + len(seen.errors)}", "0", lost + len(seen.errors) == 0,
            "; ".join(sorted(set(seen.errors)))[:200]),
        Row(f"{name}doubled", f"{doubled}", "0", doubled == 0),
        within(f"{name}click to a sign of the answer, p95", p95(seen.asked or [math.inf]), 0.15, "s", note),
        Row(f"{name}the page's process", f"{1000 * each:.1f} ms a question", note="CPU, with its answer"),
    ]  # fmt: skip


async def all_ask(page: Page, people: int, seen: Seen) -> None:
    """Let people ask in turns, evenly spread."""
    async with open_tabs(people) as http:
        site = await Site.of(http, page.url)
        tabs = [uuid.uuid4().hex for _ in range(people)]
        for session in tabs:
            async for _ in call(http, site, "compare_open", session=session):
                pass
        begin = time.monotonic() + 0.5
        people_ask = (ask(http, site, place, tabs, begin, seen) for place in range(people))
        await asyncio.gather(*people_ask)


async def ask(
    http: httpx.AsyncClient, site: Site, place: int, tabs: list[str], begin: float, seen: Seen
) -> None:
    """Ask every so many seconds in one tab, and follow each answer to its end."""
    session = tabs[place]
    for number in range(place, QUESTIONS, len(tabs)):
        await asyncio.sleep(max(begin + number * ASKING_SECONDS / QUESTIONS - time.monotonic(), 0.0))
        data = [list(MODELS), "", f"Question {number}?", None, *site.handlers["compare"][1][4:]]
        data[site.place("compare", "Longest answer")] = 1
        clicked, is_first = time.monotonic(), True
        try:
            async for outputs in call(http, site, "compare", data, session):
                if is_first and isinstance(outputs[0], str) and _RUN.search(outputs[0]):
                    seen.asked.append(time.monotonic() - clicked)
                    is_first = False
        except (PageError, httpx.HTTPError) as error:
            seen.errors.append(repr(error))


def wait_for_rest(store: Store) -> None:
    """Wait until the last question is answered."""
    deadline = time.monotonic() + 120
    while any(job.state not in TERMINAL for job in store.jobs.list(kinds=["compare"], limit=1000)):
        if time.monotonic() > deadline:
            raise RuntimeError("The questions were not answered within two minutes.")
        time.sleep(0.2)


def open_tabs(people: int) -> httpx.AsyncClient:
    """Return connections for so many people: each streams and asks at the same time."""
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=3 * people), timeout=60)


@contextmanager
def running_page(data: Path) -> Iterator[Page]:
    """Start a page, and beside it a chat lane that says words."""
    store, port = family(data), free_port()
    environment = {**os.environ, "LAB_DATA": str(data), "LAB_PORT": str(port), "LAB_WORKERS": "0"}
    lane = [sys.executable, "-m", "benchmarks.noop_lane", "chat", str(LANES), "benchmarks.crowd_kinds"]
    page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    worker = subprocess.Popen(lane, cwd=ROOT, env=environment, stdin=subprocess.PIPE)
    try:
        while not is_open(port):
            time.sleep(0.05)
        wait_for_worker(store)
        yield Page(f"http://127.0.0.1:{port}", store, psutil.Process(page.pid))
    finally:
        for process in (page, worker):
            process.kill()
            process.wait()
        store.close()


def wait_for_worker(store: Store) -> None:
    """Wait until the lane takes jobs."""
    deadline = time.monotonic() + 60
    while not any(worker.is_alive for worker in store.workers.list()):
        if time.monotonic() > deadline:
            raise RuntimeError("The lane that says words did not start within a minute.")
        time.sleep(0.1)
