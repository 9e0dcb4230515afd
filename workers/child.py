"""The process that does the work: one job and out, or (the engine) jobs until it is told to go.

It dies with the consumer that started it, whatever it is doing at that moment.
"""

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from lab.core.settings import Settings, enter_child_environment
from workers.lane import LanePlan
from workers.orders import Asked, Farewell, Listener, Order, Report

if TYPE_CHECKING:
    from workers.bench import Bench

BROKEN_DEVICE = 70
"""The exit code of a process whose device failed under it."""

FIRST_TO_DIE = "500"
"""Added to this process's score when the kernel must choose whom to kill for memory."""


def main(connection: Connection, settings: Settings, plan: LanePlan, slot: int) -> None:
    """Serve orders from the pipe. The entry of every child process.

    Args:
        connection: this child's end of the pipe to the consumer.
        settings: the lab's settings.
        plan: how the lane works.
        slot: which of the lane's places this child fills; it chooses the device.
    """
    _die_with_the_consumer()
    _offer_itself_to_the_kernel()
    os.nice(plan.niceness)
    enter_child_environment()
    _redirect_output(settings.data / "logs" / f"{plan.lane}.log")
    from workers.bench import Bench

    bench = Bench.set_up(settings, plan, slot)
    listener = Listener(connection, plan.lease_seconds)
    listener.start()
    listener.report(Report("ready", devices=bench.devices.words(), device=bench.devices.facts()))
    while (run := listener.runs.get()) is not None:
        order, asked = run
        if asked is None:
            bench.forget_models()
            listener.report(Report("forgot", models=bench.models_held(), kept_bytes=bench.bytes_held()))
            continue
        if not plan.keeps_engine:
            _redirect_output(bench.log_of(order.job_id, order.attempt))
            _serve(bench, listener, order, asked)
            return
        threading.Thread(target=_serve, args=(bench, listener, order, asked), daemon=True).start()


def _serve(bench: "Bench", listener: Listener, order: Order, asked: Asked) -> None:
    from workers.runner import run_attempt

    left = Farewell()
    try:
        left = run_attempt(bench, order.job_id, order.attempt, asked)
    finally:
        listener.report(
            Report(
                "done",
                order.job_id,
                order.attempt,
                models=bench.models_held(),
                kept_bytes=bench.bytes_held(),
                broke_device=left.broke_device,
                is_told=left.is_told,
            )
        )
    if left.broke_device:
        os._exit(BROKEN_DEVICE)  # nothing in this process can compute on the device any more


def _die_with_the_consumer() -> None:
    """Lead a process group of our own, and kill it when the consumer is gone.

    Our parent is the fork server, so the kernel's own parent-death signal would come too late. The thread
    can't run while C code keeps the interpreter to itself; there the kernel kills this process, at least.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the consumer decides, over the pipe
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()
    _have_the_kernel_kill_us_when_closed(parent.sentinel)


def _have_the_kernel_kill_us_when_closed(pipe: int) -> None:
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _offer_itself_to_the_kernel() -> None:
    """When memory runs out, a job's process goes before the page and the consumer."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text(FIRST_TO_DIE)


def _redirect_output(log: Path) -> None:
    """Send what is printed into a log; where no file can be made, it goes where it went before."""
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
