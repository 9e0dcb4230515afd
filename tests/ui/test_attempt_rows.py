"""What the Jobs page, a download and an operator are told of a job's attempts."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from ui_rows import NASTY, job

import app
from lab.core.events import Event
from lab.core.lastwords import LastWords, log_of
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, open_store
from lab.core.store.census import Census
from lab.core.store.rows import JobRow
from lab.ui.attempts import attempts_html, attempts_of
from lab.ui.downloads import add_downloads
from lab.ui.metrics import add_metrics, metrics_text
from lab.ui.visitors import COOKIE, Visitors, read_secret

WHY = "its process was killed (SIGKILL); the system may have run out of memory"


def state(seq: int, name: str, attempt: int, **more: str) -> Event:
    return Event("state", {"state": name, "attempt": attempt, "why": "", **more}, seq, float(seq))


CRASHED_ONCE = [
    state(1, "queued", 0),
    state(2, "running", 1, device="card 0"),
    state(5, "queued", 1, why=WHY, exit="SIGKILL", log=NASTY),
    state(6, "running", 2, device="card 1"),
    state(9, "succeeded", 2),
]


def test_attempts_are_told_newest_first_with_cause_device_and_time() -> None:
    second, first = attempts_of(job(state="succeeded", attempt=2, device="card 1"), CRASHED_ONCE)
    assert (second.number, second.how, second.device) == (2, "done", "card 1")
    assert (first.began, first.ended, first.device) == (2.0, 5.0, "card 0")
    assert first.how == f"cut off: {WHY}; the job was queued again"


@pytest.mark.parametrize(
    ("row", "end", "how"),
    [
        (job(), [], "running now"),
        (job(state="cancelling"), [state(3, "cancelling", 1)], "being cancelled"),
        (job(state="cancelled"), [state(3, "cancelled", 1)], "cancelled"),
        (job(state="failed", error_text="It broke."), [state(3, "failed", 1)], "failed: It broke."),
        (
            job(state="failed", error_text="Cut off."),
            [state(3, "failed", 1, exit="SIGSEGV")],
            "failed (SIGSEGV): Cut off.",
        ),
    ],
)
def test_an_attempt_says_how_it_ended(row: JobRow, end: list[Event], how: str) -> None:
    (tried,) = attempts_of(row, [state(2, "running", 1), *end])
    assert tried.how == how


def test_a_job_that_never_began_has_no_attempts() -> None:
    assert (
        attempts_of(job(state="cancelled", attempt=0), [state(1, "queued", 0), state(2, "cancelled", 0)])
        == []
    )
    assert attempts_html(job(attempt=0), [], lambda _: "") == ""


def test_the_page_links_each_log_and_shows_what_it_says_as_text() -> None:
    row = job(state="succeeded", attempt=2, device=NASTY)
    html = attempts_html(row, attempts_of(row, CRASHED_ONCE), lambda _: "")
    assert 'href="jobs/j1/attempts/1.log" download' in html
    assert "<img" not in html
    assert "&lt;img" in html
    assert "SIGKILL" in html


@pytest.fixture
def lab(tmp_path: Path) -> app.Services:
    settings = Settings(data=tmp_path)
    return app.build_services(settings, open_store(settings))


def claimed(store: Store, owner: str = "local") -> JobRow:
    store.jobs.insert(NewJob(owner, "k", "merge", "batch", "a merge", {}, "0" * 64, True))
    row = store.jobs.claim("batch", "w", "cpu")
    assert row is not None
    return row


def client(services: app.Services) -> TestClient:
    web = FastAPI()
    add_downloads(web, services)
    add_metrics(web, services)
    return TestClient(web)


def test_the_log_of_an_attempt_is_downloaded(lab: app.Services) -> None:
    row = claimed(lab.store)
    log = log_of(lab.settings.jobs, row.id, 1)
    log.parent.mkdir()
    log.write_text("all of it\n" * 20_000)
    answer = client(lab).get(f"/jobs/{row.id}/attempts/1.log")
    assert answer.text == "all of it\n" * 20_000
    assert answer.headers["content-disposition"].startswith('attachment; filename="merge-')
    assert answer.headers["content-type"].startswith("text/plain")


def test_where_the_file_is_on_another_machine_the_recorded_lines_are_sent(lab: app.Services) -> None:
    row = claimed(lab.store)
    lab.store.jobs.crashed(row.id, 1, WHY, "interrupted", "x", LastWords("SIGKILL", "the end"))
    assert client(lab).get(f"/jobs/{row.id}/attempts/1.log").text == "the end"


@pytest.mark.parametrize(
    "path",
    [
        "attempts/0.log",
        "attempts/2.log",
        "attempts/-1.log",
        "attempts/x.log",
        "attempts/1",
        "attempts/1e0.log",
        "attempts/..%2f..%2f..%2flab.db",
    ],
)
def test_nothing_but_the_log_of_an_attempt_is_served(lab: app.Services, path: str) -> None:
    row = claimed(lab.store)
    assert client(lab).get(f"/jobs/{row.id}/{path}").status_code in (404, 422)
    assert client(lab).get("/jobs/none/attempts/1.log").status_code == 404


def test_in_a_demo_a_log_is_its_owners_only_and_metrics_are_not_served(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, space=True)
    demo = app.build_services(settings, open_store(settings))
    visitors = Visitors(read_secret(tmp_path))
    ours, theirs = ({"cookie": f"{COOKIE}={visitors.new_cookie()}"} for _ in range(2))
    owner = visitors.who(type("Request", (), {"headers": {**ours, "x-forwarded-for": "1.2.3.4"}})()).name
    row = claimed(demo.store, owner)
    log = log_of(settings.jobs, row.id, 1)
    log.parent.mkdir()
    log.write_text("mine")
    address, home = f"/jobs/{row.id}/attempts/1.log", {"x-forwarded-for": "1.2.3.4"}
    assert client(demo).get(address, headers={**ours, **home}).text == "mine"
    assert client(demo).get(address, headers={**theirs, **home}).status_code == 404
    assert client(demo).get(address).status_code == 404
    assert client(demo).get("/metrics").status_code == 404


def test_metrics_count_jobs_queues_workers_and_crashes(lab: app.Services) -> None:
    row = claimed(lab.store)
    lab.store.jobs.crashed(row.id, 1, WHY, "interrupted", "x")
    lab.store.workers.beat("w", "batch", "here", "cpu")
    answer = client(lab).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'crucible_jobs{state="queued",kind="merge"} 1',
        'crucible_queue_length{lane="batch"} 1',
        'crucible_queue_length{lane="chat"} 0',
        "crucible_jobs_running 0",
        "crucible_crashes 1",
    ):
        assert line in answer.text.splitlines()
    assert 'crucible_worker_heartbeat_age_seconds{worker="w",lane="batch"} 0' in answer.text


def test_a_label_can_not_break_its_line() -> None:
    text = metrics_text(Census({}, {}, {('a"\n\\', "chat"): 1.5}, 0))
    assert '{worker="a\\"\\n\\\\",lane="chat"} 1.5\n' in text
