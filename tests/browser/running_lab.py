"""A real lab: `python app.py` in a folder of its own, started and stopped as its user would."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Page
from servers import free_port

from lab.core.store import Store

ROOT = Path(__file__).parents[2]


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


def settle_lab(data: Path) -> Path:
    """Start a new lab, wait for its starter model, and stop it; return its folder, to be copied.

    It is a hosted Space's, whose starter model belongs to nobody: visitors see it, and so does everybody.
    """
    lab = start_lab(data, SPACE_ID="ada/crucible", GRADIO_SERVER_PORT=str(free_port()))
    deadline = time.monotonic() + 180
    while not lab.store.models.list():
        assert time.monotonic() < deadline, "the starter model did not come"
        time.sleep(0.1)
    stop_lab(lab)
    return data


def move_in(settled: Path, data: Path) -> Path:
    """Copy a settled lab's folder to a new place; the weights, which nobody changes, are linked."""
    return Path(shutil.copytree(settled, data, copy_function=_copy_or_link, dirs_exist_ok=True))


def _copy_or_link(source: str, target: str) -> str:
    if source.endswith(".safetensors"):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def stop_lab(lab: RunningLab) -> list[psutil.Process]:
    """Press Ctrl-C, and return the processes that are left behind."""
    family = psutil.Process(lab.process.pid).children(recursive=True)
    lab.process.send_signal(signal.SIGINT)
    lab.process.wait(40)
    lab.store.close()
    return psutil.wait_procs(family, timeout=5)[1]
