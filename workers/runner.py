"""Runs one attempt in a child process, from the stored spec to the last change of state.

The only place of the project that catches every exception.
"""

import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar, cast

from lab.core.errors import (
    BadInput,
    ControlFlow,
    Fenced,
    IllegalTransition,
    JobFailed,
    LabError,
    NotFound,
    Unavailable,
)
from lab.core.events import EventBuffer
from lab.core.job import Device, Partner
from lab.core.lastwords import LastWords, last_lines
from lab.core.store import Success
from lab.core.store.rows import JobRow, ModelRow
from lab.core.store.second_chances import DEVICE, ON_CPU
from lab.models.hostcache import Borrower
from lab.models.publish import Manifest
from workers.attempt import Attempt
from workers.bench import Bench, load
from workers.endings import Ending, ending_for_deleted, ending_of, loss_of
from workers.inheriting import inherit_work
from workers.orders import Asked, Farewell
from workers.publishing import Shipment, clear_after

RETRY_SECONDS = 0.5
STORE_PATIENCE_SECONDS = 600.0

T = TypeVar("T")


def run_attempt(bench: Bench, job_id: str, attempt: int, asked: Asked) -> Farewell:
    """Run a claimed job, publish what it made and end it; or end it in the way its exception says.

    A fenced attempt writes nothing and touches no file: they are another attempt's now.
    """
    row = bench.store.jobs.get(job_id)
    if row.attempt != attempt:
        return Farewell()
    events = EventBuffer(
        lambda batch: _patiently(asked, partial(bench.store.jobs.append, job_id, attempt, batch))
    )
    opened: list[str] = []
    try:
        with _borrowing(bench, _attempt_of(bench, row, asked, events, opened)) as job:
            success = _work(bench, job)
        events.close()
        left = _patiently(asked, partial(bench.store.jobs.succeed, job_id, attempt, success))
    except Fenced:
        with suppress(LabError):
            events.close()
        return Farewell()
    except BaseException as error:  # noqa: BLE001  whatever a job raises is its ending
        ending = _ending_of(bench, error, opened)
        if ending.code == "disk_full" and time.monotonic() <= asked.held_until:
            clear_after(row, bench.settings)  # first: the database may be on the same disk
        with suppress(LabError):
            events.close()
        _log(bench, row, error)
        _keep(bench, row, error)
        told: JobRow | None = None
        with suppress(Fenced):
            told = _patiently(asked, partial(_end, bench, row, ending))
        _clear(bench, told or bench.store.jobs.get(job_id))
        return Farewell(ending.code == DEVICE, is_told=told is not None)
    _clear(bench, left)
    return Farewell(is_told=True)


def _patiently(asked: Asked, write: Callable[[], T]) -> T:
    """Write to the store; while it does not answer, wait and try again as long as the lease lasts.

    Raises:
        Fenced: the lease ended meanwhile, or another attempt owns the job.
    """
    while True:
        try:
            return write()
        except (BadInput, ControlFlow, IllegalTransition):
            raise
        except LabError as error:
            if time.monotonic() > asked.held_until:
                raise Fenced("The store did not answer until the lease ended.") from error
            time.sleep(RETRY_SECONDS)


def _attempt_of(bench: Bench, row: JobRow, asked: Asked, events: EventBuffer, opened: list[str]) -> Attempt:
    folder = bench.folder_of(row.id) / "work"
    if parent := inherit_work(row, bench.store, bench.settings):
        events.emit("note", text=f"Goes on with the work that job {parent} had done.", level="info")
    folder.mkdir(parents=True, exist_ok=True)
    return Attempt(
        row=row,
        device=_device_for(bench, row),
        folder=folder,
        shelf=bench.shelf,
        asked=asked,
        events=events,
        use_threads=_use_threads,
        reach=bench.failpoints.reach,
        opened=opened,
        partners=_partners_for(bench, row),
    )


def _device_for(bench: Bench, row: JobRow) -> Device:
    """Return our device, or the CPU for a job that a GPU was too small for."""
    if row.thrift == ON_CPU:
        return cast(Device, load("workers.device:cpu_device")(bench.settings))
    return bench.devices.own()


def _partners_for(bench: Bench, row: JobRow) -> tuple[Partner, ...]:
    """Return the further devices of a job that wanted several; none once a GPU was too small for it."""
    if row.devices == 1 or row.thrift == ON_CPU:
        return ()
    held = bench.store.devices.held_by(row.id)
    return tuple(bench.devices.partner(name) for name in held if name != bench.devices.name)


def _words_for(job: Attempt) -> str:
    """Say what an attempt computes on."""
    return " and ".join((job.device.words, *(partner.name for partner in job.partners)))


@contextmanager
def _borrowing(bench: Bench, job: Attempt) -> Iterator[Attempt]:
    """Let a job hold the models that it opens, so that none is evicted from this host meanwhile."""
    borrower = Borrower(job.progress, job.breathe, STORE_PATIENCE_SECONDS)
    job.shelf = bench.shelf.lent_to(borrower)
    try:
        yield job
    finally:
        borrower.give_back()


def _work(bench: Bench, job: Attempt) -> Success:
    """Run the job unless an earlier attempt finished it, then publish its models."""
    if (words := _words_for(job)) != job.row.device:  # the claim has named it, but for a job with several
        _patiently(job.asked, partial(bench.store.jobs.name_device, job.id, job.attempt, words))
    shipment = Shipment.left_by_an_earlier_attempt(
        job.folder, bench.settings.models, job.id, job.check_ownership
    )
    if shipment is None:
        job.breathe()
        bench.failpoints.reach("started")
        spec = bench.parse_spec(job.row.spec)
        outcome = bench.run_of(job.row)(spec, job)
        bench.failpoints.reach("worked")
        job.check_ownership()
        shipment = Shipment.pack(outcome, job.row, job.folder, job.check_ownership)
        bench.failpoints.reach("packed")
    return Success(shipment.summary, _publish(bench, job, shipment), shipment.scores, shipment.stopped_early)


def _publish(bench: Bench, job: Attempt, shipment: Shipment) -> list[ModelRow]:
    """Bring a shipment's models to the object store, where there is one, and to their places."""
    if bench.shelf.room:
        borrower = Borrower(job.progress, job.check_ownership, STORE_PATIENCE_SECONDS)
        shipment.upload(bench.shelf.room, bench.settings.models, borrower)
        bench.failpoints.reach("uploaded")

    def breathe() -> None:
        bench.failpoints.reach("placing")
        job.check_ownership()

    def is_leftover(manifest: Manifest) -> bool:
        return _patiently(job.asked, partial(_is_leftover, bench, manifest))

    job.check_ownership()
    rows = shipment.place(bench.settings.models, job.row.owner, breathe, is_leftover)
    bench.failpoints.reach("placed")
    return rows


def _is_leftover(bench: Bench, manifest: Manifest) -> bool:
    """Whether a model that stands on the shelf is its job's no more and nobody's on the list."""
    with suppress(NotFound):
        if not bench.store.jobs.get(manifest.job_id).is_terminal:
            return False
    return all(row.name != manifest.name for row in bench.store.models.list())


def _ending_of(bench: Bench, error: BaseException, opened: Collection[str]) -> Ending:
    """Say how an attempt ended; what nobody foresaw may be due to a model that was deleted meanwhile."""
    ending = ending_of(error)
    if ending.is_internal:
        with suppress(Unavailable):
            listed = {row.name for row in bench.store.models.list()}
            if deleted := [name for name in opened if name not in listed]:
                return ending_for_deleted(deleted[0])
    return ending


def _end(bench: Bench, row: JobRow, ending: Ending) -> JobRow:
    """Tell the store how the attempt ended.

    Raises:
        Fenced: it is another attempt's job now.
    """
    jobs = bench.store.jobs
    if ending.verb == "cancelled":
        return jobs.cancelled(row.id, row.attempt)
    if ending.verb == "released" and row.resumable:
        return jobs.release(row.id, row.attempt, "its worker was stopped")
    if ending.verb == "released":
        return jobs.fail(row.id, row.attempt, "interrupted", _INTERRUPTED_TEXT)
    sys.stdout.flush()
    words = LastWords(log=last_lines(bench.log_of(row.id, row.attempt)))
    loss = loss_of(ending, not bench.devices.name.startswith("cpu"), words)
    if loss is not None:
        return jobs.give_up(row.id, row.attempt, loss)
    return jobs.fail(row.id, row.attempt, ending.code, ending.text, ending.field, words)


def _clear(bench: Bench, row: JobRow) -> None:
    """Remove what a job that has ended leaves behind."""
    if row.is_terminal:
        clear_after(row, bench.settings)


def _keep(bench: Bench, row: JobRow, error: BaseException) -> None:
    """Save what a failed job says is worth keeping from the removal of its work."""
    if isinstance(error, JobFailed) and error.keep is not None:
        kept = bench.folder_of(row.id) / "kept"
        kept.mkdir(exist_ok=True)
        with suppress(OSError):
            error.keep.rename(kept / error.keep.name)


def _log(bench: Bench, row: JobRow, error: BaseException) -> None:
    """Write the traceback of a failure where only the log shows it."""
    if isinstance(error, ControlFlow):
        return
    log = bench.log_of(row.id, row.attempt)
    with suppress(OSError), log.open("a") as file:
        file.write("".join(traceback.format_exception(error)))


def _use_threads(count: int) -> None:
    """Give the calling thread its share of the cores; a job without torch needs none."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


_INTERRUPTED_TEXT = "The lab was stopped while this ran. What it had said so far is kept. Run it again."
