"""What a person waits for: the page, the first sign of life of a job, and each new word.

Starts a lab of its own in a temporary folder, with the starter model, and drives it in Chromium.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.table import Row
from lab.core.events import Event
from lab.core.store import Store
from lab.models.spec import StarterSpec

ROOT = Path(__file__).parents[1]
QUESTIONS = 12
SCORES = 8

WATCH = """
() => {
  window.seen = [];
  window.clicked = 0;
  document.addEventListener('click', () => { window.clicked = Date.now(); }, true);
  new MutationObserver(() => {
    const answer = document.querySelector('#lab-answers .lab-answer.lab-plain');
    if (answer) window.seen.push([Date.now(), answer.textContent.length]);
  }).observe(document.querySelector('#lab-answers'), { childList: true, subtree: true, characterData: true });
}
"""


@dataclass
class Lab:
    """A running lab: its process, address and store."""

    process: "subprocess.Popen[bytes]"
    url: str
    store: Store
    begun: float
    listening: float = 0.0
    lags: list[float] = field(default_factory=list)

    def rss_mib(self) -> float:
        """Return the web process's resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


def measure() -> list[Row]:
    """Measure everything on one lab, started twice: the second start is the one that counts."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with running_lab(Path(folder)) as lab:
            wait_for_starter(lab)
        with running_lab(Path(folder)) as lab:
            page = browser.new_page()
            page.goto(f"{lab.url}/?view=compare")
            page.wait_for_selector(".lab-column")  # the models are chosen: it can be asked
            usable = time.time()
            page.get_by_label("Longest answer").fill("32")
            chat = [ask(lab, page, number) for number in range(QUESTIONS + 1)][1:]
            batch = [score(lab, page) for _ in range(SCORES)]
            memory = lab.rss_mib()
        browser.close()
    return [
        within("page usable after its socket opened", usable - lab.listening, 3.0, "s"),
        within("page usable after its process started", usable - lab.begun, 6.0, "s"),
        within("click to first event, chat job, warm model, p95", p95(chat), 0.3, "s"),
        within("click to first event, batch job, p95", p95(batch), 1.0, "s"),
        within(
            "event in the database to the pixel, p95", p95(lab.lags), 0.25, "s", f"{len(lab.lags)} updates"
        ),
        within("web process, resident memory", memory, 500, "MiB"),
    ]


@contextmanager
def running_lab(folder: Path) -> Iterator[Lab]:
    """Start the lab as its user would, and stop it as its user would."""
    port = free_port()
    environment = {**os.environ, "LAB_DATA": str(folder), "LAB_PORT": str(port)}
    begun = time.time()
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    lab = Lab(process, f"http://127.0.0.1:{port}", Store(f"sqlite:///{folder / 'lab.db'}"), begun)
    try:
        while not is_open(port):
            time.sleep(0.01)
        lab.listening = time.time()
        yield lab
    finally:
        lab.store.close()
        process.terminate()
        process.wait(40)


def ask(lab: Lab, page: Page, number: int) -> float:
    """Ask a question and watch the words arrive; return the seconds from the click to the first event."""
    page.evaluate(WATCH)
    page.fill("#lab-question textarea", f"Tell me a story about {number + 5} ships.")
    page.click("#lab-ask-button")
    page.wait_for_selector(".lab-column[data-phase]", timeout=60_000)
    page.wait_for_function(
        "() => !document.querySelector('.lab-column:not([data-phase=done])')", timeout=120_000
    )
    clicked = page.evaluate("window.clicked") / 1000
    job = lab.store.jobs.list(kinds=["compare"], limit=1)[0]
    events = lab.store.events.after(job.id, 0)
    lab.lags += pixel_lags(events, page.evaluate("window.seen"))
    page.click("#lab-fresh")
    page.wait_for_function("() => !document.querySelector('.lab-column[data-phase]')")
    return first_sign(events) - clicked


def score(lab: Lab, page: Page) -> float:
    """Start a score job, cancel it, and return the seconds from the click to its first event."""
    page.evaluate(WATCH)
    page.click("#lab-score")
    clicked = page.evaluate("window.clicked") / 1000
    while True:
        jobs = lab.store.jobs.list(kinds=["score"], limit=1)
        if jobs and jobs[0].started and jobs[0].started > clicked:
            break
        time.sleep(0.02)
    begun = first_sign(lab.store.events.after(jobs[0].id, 0))
    lab.store.jobs.request_cancel(jobs[0].id)
    while not lab.store.jobs.get(jobs[0].id).is_terminal:
        time.sleep(0.05)
    page.wait_for_timeout(2500)
    return begun - clicked


def first_sign(events: list[Event]) -> float:
    """Return when a job first said something after it was queued."""
    return events[1].time


def pixel_lags(events: list[Event], seen: list[Any]) -> list[float]:
    """Return for every delta of the first column the seconds until the page showed that much text."""
    lags, length = [], 0
    for event in events:
        if event.kind == "delta" and event.payload["column"] == 0:
            length += len(event.payload["text"])
            shown = [moment / 1000 for moment, count in seen if count >= length]
            if shown:
                lags.append(max(shown[0] - event.time, 0.0))
    return lags


def wait_for_starter(lab: Lab) -> None:
    """Wait until the starter model is listed."""
    name = StarterSpec().name
    while not any(row.name == name for row in lab.store.models.list()):
        time.sleep(0.5)


def p95(values: list[float]) -> float:
    """Return the 95th percentile; the largest of a few."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 19 else max(values)


def within(what: str, value: float, target: float, unit: str, note: str = "") -> Row:
    """Make a row of a figure that should stay under its target."""
    return Row(what, f"{value:.3g} {unit}", f"under {target:g} {unit}", value < target, note)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Tell whether somebody accepts connections on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
