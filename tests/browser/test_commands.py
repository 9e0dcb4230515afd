"""`python app.py` as its user knows it: one line, a page that answers, and nothing left behind."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect
from running_lab import ROOT, start_lab, stop_lab

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


def test_ctrl_c_ends_the_lab_and_every_process_of_it(tmp_path: Path) -> None:
    lab = start_lab(tmp_path)
    assert urllib.request.urlopen(f"{lab.url}/healthz").read() == b"ok"
    deadline = time.monotonic() + 60
    while len(lab.store.workers.list()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {worker.lane for worker in lab.store.workers.list()} == {"batch", "chat"}
    assert stop_lab(lab) == []
    assert lab.process.returncode == 0
    assert lab.process.stdout is not None
    assert lab.process.stdout.read() == ""


def test_the_page_alone_answers_without_workers(tmp_path: Path) -> None:
    lab = start_lab(tmp_path, LAB_WORKERS="0")
    assert psutil.Process(lab.process.pid).children() == []
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{lab.url}/gradio_api/openapi.json")
    stop_lab(lab)


def test_labs_that_start_at_once_get_an_address_each(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    with ThreadPoolExecutor() as pool:
        labs = list(pool.map(lambda folder: start_lab(folder, LAB_WORKERS="0"), folders))
    assert len({lab.url for lab in labs}) == 3
    for lab in labs:
        stop_lab(lab)


def test_another_interface_is_refused_in_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "LAB_DATA": str(tmp_path), "LAB_HOST": "0.0.0.0"}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "listens on 127.0.0.1 only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.browser
def test_a_hosted_space_shows_a_visitor_no_imports_and_gives_them_a_cookie(
    tmp_path: Path, browser: Browser
) -> None:
    lab = start_lab(tmp_path, LAB_WORKERS="0", SPACE_ID="ada/crucible", GRADIO_SERVER_PORT="7869")
    page = browser.new_page()
    lab.open(page, "models")
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    expect(page.locator("#lab-bar")).to_contain_text("visitor")
    expect(page.get_by_text("Add a model from a folder")).to_have_count(0)
    assert [cookie["name"] for cookie in page.context.cookies()] == ["crucible_visitor"]
    page.close()
    stop_lab(lab)
