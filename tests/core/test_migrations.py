"""The database of an earlier release opens and keeps its rows, on every kind of database."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from servers import Backend
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from lab.core.errors import LabError
from lab.core.settings import Settings
from lab.core.store import Store, Success, open_store
from lab.core.store.database import MIGRATIONS

ROW = {
    "id": "0" * 32, "owner": "ada", "idem_key": "k", "kind": "merge", "lane": "batch", "title": "a merge",
    "spec": '{"a": 1}', "spec_sha256": "0" * 64, "state": "queued", "attempt": 0, "crash_count": 0,
    "priority": 0, "resumable": True, "stop_requested": False, "stopped_early": False, "device": "",
    "last_seq": 1, "progress": 0.0, "progress_words": "", "created": 1000.0, "result": "{}",
}  # fmt: skip


@pytest.fixture
def empty(database: Backend, tmp_path: Path) -> Iterator[Settings]:
    """Settings whose database has no table yet."""
    url = database.postgres.new_database("template0") if database.postgres else ""
    yield Settings(data=tmp_path, database_url=url)
    if database.postgres:
        database.postgres.drop(url)


def bring_to(settings: Settings, revision: str) -> None:
    """Make the database as the release of a migration left it, with a job in it."""
    settings.make_folders()
    store = Store(settings.database)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with store.database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        names = ", ".join(ROW)
        values = ", ".join(f":{name}" for name in ROW)
        connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({values})"), ROW)
        connection.execute(
            text("INSERT INTO events VALUES (:id, 1, 1000.0, 'state', :payload)"),
            {"id": ROW["id"], "payload": '{"state": "queued", "attempt": 0, "why": ""}'},
        )
    store.close()


def test_a_database_of_the_first_release_is_migrated_and_its_job_runs(empty: Settings) -> None:
    bring_to(empty, "0001")
    store = open_store(empty)
    job = store.jobs.get(str(ROW["id"]))
    assert (job.title, job.spec) == ("a merge", {"a": 1})
    claimed = store.jobs.claim("batch", "w", "cpu")
    assert claimed is not None
    assert claimed.id == job.id
    assert [event.seq for event in store.events.after(job.id, 0)] == [1, 2]
    with pytest.raises(IntegrityError, match="illegal transition"), store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET state = 'cancelled'"))
    with store.database.read() as connection:
        assert "jobs_leases" in {index["name"] for index in inspect(connection).get_indexes("jobs")}
    store.close()


EARLIER = sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:-1]


@pytest.mark.parametrize("revision", EARLIER)
def test_jobs_of_every_earlier_release_finish_or_are_queued_again(empty: Settings, revision: str) -> None:
    bring_to(empty, revision)
    old = Store(empty.database)
    with old.database.write() as connection:
        for name in ("alive", "dead", "done"):
            add_running(connection, name, lease_until=9e9 if name == "alive" else 1.0)
        connection.execute(
            text("UPDATE jobs SET state = 'succeeded', finished = 2.0 WHERE idem_key = 'done'")
        )
        values = "('pirate', 'merge', 'ada', '[]', '', '{}', 7, 'abc', NULL, 1.0)"
        connection.execute(text(f"INSERT INTO models VALUES {values}"))
        connection.execute(text("INSERT INTO scores VALUES ('pirate', 'bits', 't', 1, 0, 2, 5, 'x', 1.0)"))
    old.close()
    store = open_store(empty)
    jobs = {row.title: row for row in store.jobs.list()}
    assert store.jobs.heartbeat(jobs["alive"].id, 1).state == "running"  # its worker has not been stopped yet
    assert [(row.title, row.state) for row in store.jobs.reap()] == [("dead", "queued")]
    assert store.jobs.succeed(jobs["alive"].id, 1, Success({"loss": 1.0})).state == "succeeded"
    claimed = {store.jobs.claim("batch", "w", "cpu").title for _ in range(2)}  # type: ignore[union-attr]
    assert claimed == {"a merge", "dead"}
    assert store.jobs.get(jobs["done"].id).state == "succeeded"
    assert [row.name for row in store.models.list()] == ["pirate"]
    assert [row.value for row in store.scores.of(["pirate"])] == [1.0]
    store.close()


def add_running(connection: Connection, name: str, lease_until: float) -> None:
    """Add a job that a worker of the old release holds, by the old release's columns."""
    row = {**ROW, "id": name.ljust(32, "0"), "idem_key": name, "title": name}
    names, values = ", ".join(row), ", ".join(f":{key}" for key in row)
    connection.execute(text(f"INSERT INTO jobs ({names}) VALUES ({values})"), row)
    event = {"id": row["id"], "payload": '{"state": "queued", "attempt": 0, "why": ""}'}
    connection.execute(text("INSERT INTO events VALUES (:id, 1, 1000.0, 'state', :payload)"), event)
    held = "state = 'running', attempt = 1, worker_id = 'old', started = 1.0, lease_until = :until"
    connection.execute(
        text(f"UPDATE jobs SET {held} WHERE id = :id"), {"id": row["id"], "until": lease_until}
    )


def test_hosts_that_start_at_once_migrate_once(empty: Settings) -> None:
    bring_to(empty, "0001")
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(open_store(empty))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        assert store.jobs.get(str(ROW["id"])).title == "a merge"
        store.close()


def test_the_database_of_a_newer_release_is_left_alone(empty: Settings) -> None:
    store = open_store(empty)
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LabError, match="newer release"):
        open_store(empty)
    store.close()
