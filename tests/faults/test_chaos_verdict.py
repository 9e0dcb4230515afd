"""The judge of `make chaos` sees what it is there to see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos_verdict import Verdict, judge
from sqlalchemy import text
from tiny_models import write_model

from lab.core.events import NewEvent
from lab.core.job import NewModel
from lab.core.store import NewJob, Store, Success
from lab.core.store.rows import JobRow
from lab.models.publish import finish, model_row, place

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "models").mkdir()
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    yield store
    store.close()


def queued(store: Store, kind: str = "merge", **spec: Any) -> str:
    new = NewJob("ada", kind, kind, "batch", kind, {"name": "new", **spec}, "0" * 64, kind == "merge")
    return store.jobs.insert(new)[0].id


def running(store: Store, kind: str = "merge", **spec: Any) -> JobRow:
    queued(store, kind, **spec)
    row = store.jobs.claim("batch", "w", "cpu")
    assert row is not None
    return row


def merged(store: Store, tmp_path: Path) -> str:
    job = running(store)
    folder = write_model(tmp_path / "work")
    manifest = finish(NewModel("new", folder, "merge"), "", job.id, 1)
    place(folder, tmp_path / "models" / "new")
    store.jobs.succeed(job.id, 1, Success(models=[model_row(manifest, "ada")]))
    return job.id


def sql(store: Store, statement: str) -> None:
    with store.database.write() as connection:
        connection.execute(text(statement))


def verdict(store: Store, tmp_path: Path, *jobs: str) -> Verdict:
    return judge(store, tmp_path / "models", jobs)


def test_a_whole_merge_and_a_cut_off_answer_are_as_they_should_be(store: Store, tmp_path: Path) -> None:
    chat = running(store, "compare", name=None)
    store.jobs.fail(chat.id, 1, "interrupted", "it was cut off")
    found = verdict(store, tmp_path, merged(store, tmp_path), chat.id)
    assert found.is_good, vars(found)
    assert found.ends == {"merge succeeded": 1, "compare cut off": 1}
    assert found.last_line == "chaos: 2 jobs, 0 lost, 0 published twice, 0 stuck"


def test_jobs_that_are_gone_or_have_not_ended_are_lost(store: Store, tmp_path: Path) -> None:
    assert len(verdict(store, tmp_path, "gone", queued(store)).lost) == 2


def test_a_job_that_nobody_holds_is_stuck(store: Store, tmp_path: Path) -> None:
    job = running(store)
    assert not verdict(store, tmp_path, job.id).stuck
    sql(store, "UPDATE jobs SET lease_until = 1")
    assert verdict(store, tmp_path, job.id).stuck


def test_a_model_announced_twice_or_not_at_all_is_seen(store: Store, tmp_path: Path) -> None:
    job = merged(store, tmp_path)
    sql(
        store,
        f"INSERT INTO events SELECT '{job}', 5, time, kind, payload FROM events WHERE kind = 'artifact'",
    )
    assert verdict(store, tmp_path, job).twice
    sql(store, "DELETE FROM events WHERE kind = 'artifact'")
    assert verdict(store, tmp_path, job).twice


def test_a_gap_in_the_events_is_seen(store: Store, tmp_path: Path) -> None:
    job = running(store)
    store.jobs.append(job.id, 1, [NewEvent("note", {"text": str(n)}) for n in range(3)])
    sql(store, "DELETE FROM events WHERE seq = 4")
    assert "a gap" in verdict(store, tmp_path, job.id).faulty[0]


def test_text_that_was_told_and_stored_differently_is_seen(store: Store, tmp_path: Path) -> None:
    job = running(store, "compare", name=None)
    store.jobs.append(job.id, 1, [NewEvent("delta", {"column": 0, "text": "one "})] * 2)
    store.jobs.succeed(job.id, 1, Success(summary={"columns": [{"text": "one "}]}))
    assert "differently" in verdict(store, tmp_path, job.id).faulty[0]


def test_a_folder_of_nobody_and_a_model_that_was_tampered_with_are_seen(store: Store, tmp_path: Path) -> None:
    job = merged(store, tmp_path)
    (tmp_path / "models" / "nobody").mkdir()
    sql(store, "UPDATE models SET manifest_sha256 = 'other'")
    assert len(verdict(store, tmp_path, job).faulty) == 2


def test_a_failure_that_no_kill_explains_is_seen(store: Store, tmp_path: Path) -> None:
    job = running(store)
    store.jobs.fail(job.id, 1, "internal", "a bug")
    assert "a bug" in verdict(store, tmp_path, job.id).faulty[0]
