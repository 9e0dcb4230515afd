"""A web process as far as submitting goes: `python web_desk.py DATA MODE KEY...`.

It says "ready", waits for a line on its input, submits a toy job for every key, each from a thread of its
own, and prints the ids. In the mode `dies` it is killed when it has written the row and is about to ring.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fakes import FakeShelf
from toy_kind import ToySpec

from lab.core.job import Shelf
from lab.core.settings import Settings
from lab.core.store import Store
from lab.jobs import Desk, Kind
from workers.queue import make_bells

TOY = Kind("batch", "toy_kind:run", "web_desk:check")


class LastBell:
    """Kills its process instead of ringing."""

    def ring(self, job_id: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def check(spec: ToySpec, shelf: Shelf) -> None:
    """Let every toy pass."""


def open_desk(settings: Settings) -> Desk:
    """Open the desk of a lab that knows toy jobs."""
    return Desk(Store(settings.database), FakeShelf(settings.data), make_bells(settings), kinds={"toy": TOY})


def main() -> None:
    _, data, mode, *keys = sys.argv
    desk = open_desk(Settings(data=Path(data)))
    if mode == "dies":
        desk = Desk(desk.store, desk.shelf, {"batch": LastBell()}, kinds=desk.kinds)
    desk.store.database.time()
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(8) as threads:
        for job in threads.map(lambda key: desk.submit(ToySpec(), "ada", key), keys):
            print(job.id, flush=True)


if __name__ == "__main__":
    main()
