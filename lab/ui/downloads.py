"""What a browser may download beside the pages: the log of one attempt, by its job's owner.

No folder is opened for it: the path is made from the job's row, never from the request.
"""

from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from lab.core.errors import LabError, NotFound
from lab.core.lastwords import log_of
from lab.core.store.rows import JobRow
from lab.ui.services import Services

CHUNK_BYTES = 64 * 1024


def add_downloads(web: FastAPI, services: Services) -> None:
    """Serve GET /jobs/{id}/attempts/{number}.log."""

    @web.get("/jobs/{job_id}/attempts/{number}.log")
    def attempt_log(job_id: str, number: int, request: Request) -> Response:
        try:
            job = _visible_job(services, job_id, request)
        except NotFound as error:
            return PlainTextResponse(str(error), 404)
        except LabError as error:
            return PlainTextResponse(str(error), 503)
        return _answer(services, job, number)


def _visible_job(services: Services, job_id: str, request: Request) -> JobRow:
    """Return a job that the asker may see: in a demo, one of their own.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    who = services.who(request)
    return services.desk.own(job_id, who.name) if who.is_visitor else services.store.jobs.get(job_id)


def _answer(services: Services, job: JobRow, number: int) -> Response:
    name = f"{job.kind}-{job.id[:8]}-attempt-{number}.log"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    log = log_of(services.settings.jobs, job.id, number)
    if 1 <= number <= job.attempt and log.is_file():
        return StreamingResponse(_as_it_is_now(log), media_type="text/plain", headers=headers)
    told = [event.payload for event in services.store.events.states(job.id)]
    recorded = [one["log"] for one in told if one["attempt"] == number and one.get("log")]
    if recorded:  # the attempt ran on another machine
        return PlainTextResponse(recorded[-1], headers=headers)
    return PlainTextResponse(f"Attempt {number} of this job has written no log.", 404)


def _as_it_is_now(log: Path) -> Iterator[bytes]:
    """Read a log up to where it ends now; a running attempt may go on writing."""
    with log.open("rb") as file:
        left = file.seek(0, 2)
        file.seek(0)
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
