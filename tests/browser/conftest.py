"""A lab that the tests of one module share, and a headless Chromium to look at it with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_lab import RunningLab, move_in, settle_lab, start_lab, stop_lab

CHROMIUM = shutil.which("chromium")

LEAVING = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
"""What Gradio 6.31 says on the console when a page is left while it waits for an answer."""

expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a lab that has its starter model and nothing else. Copy it; do not write into it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "settled"  # one for all that test now
    with FileLock(f"{folder}.lock"):
        return folder if folder.exists() else settle_lab(folder)


@pytest.fixture(scope="module")
def lab(settled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab that the tests of one module share, with its workers."""
    running = start_lab(move_in(settled, tmp_path_factory.mktemp("lab")))
    yield running
    stop_lab(running)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, for one module: its event loop is in the way of tests with loops of their own."""
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
