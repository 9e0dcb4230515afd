"""Starts the lanes' consumers beside the page, restarts one that dies, and stops them all."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.core.settings import Settings, child_environment
from workers.queue import LANES

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
STOP_SECONDS = 30.0
WATCH_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

Command = Callable[[str], Sequence[str]]


def lane_command(lane: str) -> list[str]:
    """Return the command line of one lane's consumer."""
    return [sys.executable, "-m", "workers", lane, "--with-parent"]


class Workers:
    """The consumers of all lanes, each in a session of its own, which end when this process does.

    Args:
        settings: the lab's settings.
        lanes: which lanes to run.
        command: builds a lane's command line; tests have one of their own.
    """

    def __init__(
        self, settings: Settings, lanes: Sequence[str] = LANES, command: Command = lane_command
    ) -> None:
        self._settings = settings
        self._command = command
        self._ended = threading.Event()
        self.processes = {lane: self._start(lane) for lane in lanes}
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="workers")
        self._watcher.start()

    def stop(self) -> None:
        """Stop the consumers: they release their jobs. One that takes too long is killed."""
        self._ended.set()
        self._watcher.join()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its children notice and end with it
                process.wait()

    def _start(self, lane: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command(lane),
            stdin=subprocess.PIPE,  # closed by the system when we die, however we die
            cwd=ROOT,
            env=_environment(self._settings),
            start_new_session=True,  # Ctrl-C is ours to pass on
        )

    def _watch(self) -> None:
        pause = WATCH_SECONDS
        while not self._ended.wait(pause):
            dead = [lane for lane, process in self.processes.items() if process.poll() is not None]
            for lane in dead:
                log.warning(
                    "The %s worker ended with code %s; it starts again.",
                    lane,
                    self.processes[lane].returncode,
                )
                self.processes[lane] = self._start(lane)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS) if dead else WATCH_SECONDS


def _environment(settings: Settings) -> dict[str, str]:
    """Return what a consumer reads its settings from: our environment, with our settings written in."""
    ours = {
        "LAB_DATA": str(settings.data),
        "LAB_DATABASE_URL": settings.database_url,
        "LAB_QUEUE_URL": settings.queue_url,
        "LAB_QUEUE_KEY": settings.queue_key,
        "LAB_STORE_URL": settings.store_url,
        "LAB_CACHE_GB": str(settings.cache_gb),
        "LAB_DISK_RESERVE_MB": str(settings.disk_reserve_mb),
        "LAB_DEVICES": settings.devices,
        "LAB_MOST_RUNNING": str(settings.most_running),
        "LAB_THREADS": str(settings.threads),
    }
    # A killed child leaves semaphores behind, which Python tidies away with a warning to the terminal.
    quiet = {"PYTHONWARNINGS": "ignore:resource_tracker"}
    return {**child_environment(), **ours, **quiet}


def start_workers(settings: Settings) -> Workers:
    """Start the consumers of all lanes beside the calling process."""
    return Workers(settings)
