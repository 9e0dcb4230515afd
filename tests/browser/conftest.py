"""A real lab for the browser tests: `python app.py` in a folder of its own, and a headless Chromium."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lab.core.store import Store

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")

LEAVING = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
"""What Gradio 6.31 says on the console when a page is left while it waits for an answer."""

expect.set_options(timeout=60_000)


@dataclass
class RunningLab:
    """A lab under test: where its page is, its store, and its process."""

    url: str
    store: Store
    process: "subprocess.Popen[str]"
    data: Path

    def open(self, page: Page, view: str, **address: str) -> None:
        """Open one of the lab's pages."""
        more = "".join(f"&{name}={value}" for name, value in address.items())
        page.goto(f"{self.url}/?view={view}{more}")


def start_lab(data: Path, **environment: str) -> RunningLab:
    """Start app.py and wait for the one line it prints."""
    settings = {"LAB_DATA": str(data), "LAB_THREADS": "1", **environment}
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **settings},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"Crucible is ready: (http://127\.0\.0\.1:\d+)\n", line)
    assert found, f"app.py said {line!r}"
    return RunningLab(found[1], Store(f"sqlite:///{data / 'lab.db'}"), process, data)


def stop_lab(lab: RunningLab) -> list[psutil.Process]:
    """Press Ctrl-C, and return the processes that are left behind."""
    family = psutil.Process(lab.process.pid).children(recursive=True)
    lab.process.send_signal(signal.SIGINT)
    lab.process.wait(40)
    lab.store.close()
    return psutil.wait_procs(family, timeout=5)[1]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab that all browser tests share, with its workers."""
    running = start_lab(tmp_path_factory.mktemp("lab"))
    yield running
    stop_lab(running)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; `make test` installs it where it may")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own; an error on its console fails the test."""
    opened = browser.new_page(viewport={"width": 1440, "height": 960})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield opened
    opened.close()
    assert [error for error in errors if not error.startswith(LEAVING)] == []
