"""GET /metrics for operators, in the text format of Prometheus. Never served by a public demo."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from lab.core.errors import LabError
from lab.core.spec import Lane
from lab.core.store.census import Census, take_census
from lab.ui.services import Services

Labels = Mapping[str, str]
Values = Sequence[tuple[Labels, float]]


def add_metrics(web: FastAPI, services: Services) -> None:
    """Serve GET /metrics, unless this is a demo."""
    if services.is_demo:
        return

    @web.get("/metrics")
    def metrics() -> Response:
        try:
            census = take_census(services.store.database)
        except LabError as error:
            return PlainTextResponse(str(error), 503)
        return PlainTextResponse(metrics_text(census), media_type="text/plain; version=0.0.4")


def metrics_text(census: Census) -> str:
    """Write a census as Prometheus reads it."""
    waiting = {lane: census.waiting.get(lane, (0, 0.0)) for lane in get_args(Lane)}
    running = sum(n for (state, _), n in census.jobs.items() if state in ("running", "cancelling"))
    families: tuple[tuple[str, str, Values], ...] = (
        ("jobs", "Jobs on record.", [({"state": s, "kind": k}, n) for (s, k), n in census.jobs.items()]),
        ("jobs_running", "Jobs that a worker holds.", [({}, running)]),
        ("queue_length", "Jobs that wait.", [({"lane": lane}, n) for lane, (n, _) in waiting.items()]),
        (
            "queue_oldest_seconds",
            "Time since the oldest waiting job was submitted.",
            [({"lane": lane}, age) for lane, (_, age) in waiting.items()],
        ),
        (
            "worker_heartbeat_age_seconds",
            "Time since a worker was heard of.",
            [({"worker": name, "lane": lane}, age) for (name, lane), age in census.workers.items()],
        ),
        ("crashes", "Deaths of jobs' processes, over the jobs on record.", [({}, census.crashes)]),
    )
    return "".join(line for name, words, values in families for line in _family(name, words, values))


def _family(name: str, words: str, values: Values) -> Iterator[str]:
    yield f"# HELP crucible_{name} {words}\n# TYPE crucible_{name} gauge\n"
    for labels, value in values:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"crucible_{name}{{{inside}}} {value:g}\n" if inside else f"crucible_{name} {value:g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
