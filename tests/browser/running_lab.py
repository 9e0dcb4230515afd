"""A real lab: `python app.py` in a folder of its own, started and stopped as its user would."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Page

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


def stop_lab(lab: RunningLab) -> list[psutil.Process]:
    """Press Ctrl-C, and return the processes that are left behind."""
    family = psutil.Process(lab.process.pid).children(recursive=True)
    lab.process.send_signal(signal.SIGINT)
    lab.process.wait(40)
    lab.store.close()
    return psutil.wait_procs(family, timeout=5)[1]
