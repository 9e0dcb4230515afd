"""The lab in one go: the page and, beside it, the workers. `python app.py` and nothing else.

Builds settings, store, queue and pages, mounts Gradio in a FastAPI application of ours, and stops
everything it started when it is told to.
"""

import gc

gc.disable()  # nothing is garbage while modules load, and looking for it takes a second

import contextlib
import logging
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.middleware.cors import CORSMiddleware

from lab.core.errors import LabError, Unavailable
from lab.core.settings import Settings, read_settings
from lab.core.store import Store, open_store
from lab.core.store.limits import limits_of
from lab.house import HOUSE_OWNER, DemoHouse, clear_table
from lab.jobs import Desk
from lab.models.catalog import Catalog
from lab.models.spec import StarterSpec
from lab.ui.downloads import add_downloads
from lab.ui.guard import Application, Guard
from lab.ui.metrics import add_metrics
from lab.ui.services import Services, always_local
from lab.ui.shell import mount
from lab.ui.visitors import CookieGiver, Visitors, read_secret
from workers.queue import make_bells
from workers.start import start_workers

FIRST_PORT = 7860
HEAD_START_SECONDS = 3.0
"""The first page has the cores to itself for so long; then the workers load their libraries."""
SPACE_FRAMES = "https://huggingface.co https://*.hf.space"


def main() -> int:
    """Run the lab until it is interrupted; return the exit code."""
    gc.enable()
    gc.freeze()
    try:
        settings = read_settings()
        store = open_store(settings)
        services = build_services(settings, store)
        web = build_web(services)
        listener = open_port(settings)
    except LabError as error:
        print(f"Crucible can't start. {error}", file=sys.stderr)
        return 2
    server = LabServer(uvicorn.Config(web, log_level="warning", timeout_graceful_shutdown=1))
    # Streams that the end of the lab cuts off are no news.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    port = listener.getsockname()[1]
    attendant = threading.Thread(target=attend, args=(services, server, port), name="attendant")
    attendant.start()
    try:
        server.run(sockets=[listener])
    finally:
        server.should_exit = True
        attendant.join()
        store.close()
    return 0


class LabServer(uvicorn.Server):
    """A uvicorn server that ends quietly on the first signal, so that the workers are stopped too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the server, and nothing else."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def open_port(settings: Settings) -> socket.socket:
    """Listen on the port asked for, else on 7860 or the next free one, so that nobody else takes it.

    Raises:
        LabError: the port asked for is taken, or a hundred are.
    """
    candidates = [settings.port] if settings.port else range(FIRST_PORT, FIRST_PORT + 100)
    for port in candidates:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen()
        except OSError:
            listener.close()
            continue
        return listener
    raise LabError(f"Port {candidates[0]} is taken. Set LAB_PORT to a free one, or unset it.")


def build_services(settings: Settings, store: Store) -> Services:
    """Put together what the pages get."""
    catalog = Catalog(store, settings)
    bells, limits = make_bells(settings), limits_of(settings, exempt=(HOUSE_OWNER,))
    desk = Desk(store, catalog.for_checks(), bells, limits=limits, most_running=settings.most_running)
    if settings.space:
        house = DemoHouse(store)
        desk = replace(desk, gate=house.gate, rules=house.rules)
    who = Visitors(read_secret(settings.data)).who if settings.space else always_local
    return Services(settings, store, catalog, desk, who)


def build_web(services: Services) -> Application:
    """Mount the pages in a FastAPI application of ours, behind the guard."""
    settings = services.settings
    web = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    web.add_middleware(CORSMiddleware, allow_origins=[])  # Gradio's own would reflect any origin

    @web.get("/healthz")
    def healthz() -> PlainTextResponse:
        try:
            services.store.database.time()
        except Unavailable:
            return PlainTextResponse("the database does not answer", 503, {"Retry-After": "5"})
        return PlainTextResponse("ok")

    add_downloads(web, services)
    add_metrics(web, services)
    mount(web, services)
    if not settings.space:
        return Guard(web, hosts=("127.0.0.1", "localhost", "[::1]"))
    visitors = Visitors(read_secret(settings.data))
    return Guard(CookieGiver(web, visitors), hosts=(), frame_ancestors=SPACE_FRAMES)


def attend(services: Services, server: LabServer, port: int) -> None:
    """Wait for the page, announce it, start the workers, and stop them when the page ends."""
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read()
    print(f"Crucible is ready: http://127.0.0.1:{port}", flush=True)
    wait_until(time.monotonic() + HEAD_START_SECONDS, server)
    workers = start_workers(services.settings) if services.settings.workers else None
    fetch_starter(services)
    next_clearing = 0.0
    while not server.should_exit:
        if services.settings.space and time.monotonic() > next_clearing:
            clear_table(services.store, services.catalog, services.settings.jobs)
            next_clearing = time.monotonic() + 60
        time.sleep(0.1)
    if workers:
        workers.stop()


def wait_until(moment: float, server: LabServer) -> None:
    """Wait for a moment of the monotonic clock, or for the server's end."""
    while time.monotonic() < moment and not server.should_exit:
        time.sleep(0.05)


def fetch_starter(services: Services) -> None:
    """Queue the job that makes the starter model, if this lab has none and none is on its way."""
    spec = StarterSpec()
    owner = HOUSE_OWNER if services.settings.space else "local"
    if any(row.name == spec.name for row in services.store.models.list()):
        return
    with contextlib.suppress(LabError):  # another process of this lab has just queued it
        services.desk.submit(spec, owner)


if __name__ == "__main__":
    sys.exit(main())
