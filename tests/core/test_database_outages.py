"""A database that goes away is said to be away, and the same store goes on when it is back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres

from lab.core.errors import LabError, Unavailable
from lab.core.events import NewEvent
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, open_store

pytestmark = pytest.mark.server

WISH = NewJob("ada", "k", "merge", "batch", "a merge", {}, "0" * 64, resumable=True)


@pytest.fixture
def store(own_postgres: Postgres, tmp_path: Path) -> Iterator[Store]:
    store = open_store(Settings(data=tmp_path, database_url=own_postgres.fresh()))
    yield store
    store.close()


def test_reads_and_writes_say_that_the_database_is_away_and_go_on_when_it_is_back(
    store: Store, own_postgres: Postgres
) -> None:
    job, _ = store.jobs.insert(WISH)
    store.jobs.claim("batch", "w", "cpu")
    for end in (own_postgres.kill, own_postgres.stop):
        end()
        for use in (
            lambda: store.jobs.get(job.id),
            lambda: store.jobs.heartbeat(job.id, 1),
            lambda: store.jobs.append(job.id, 1, [NewEvent("note", {"text": "x"})]),
            lambda: store.jobs.claim("batch", "w", "cpu"),
            lambda: store.jobs.insert(WISH),
        ):
            with pytest.raises(Unavailable, match="Nothing was"):
                use()
        own_postgres.start()
        store.jobs.append(job.id, 1, [NewEvent("note", {"text": "back"})])
    assert store.jobs.heartbeat(job.id, 1).state == "running"
    assert [event.seq for event in store.events.after(job.id, 0)] == [1, 2, 3, 4]


def test_a_connection_that_dies_inside_a_transaction_changes_nothing(
    store: Store, own_postgres: Postgres
) -> None:
    job, _ = store.jobs.insert(WISH)

    def change_all() -> None:
        with store.database.write() as connection:
            connection.exec_driver_sql("UPDATE jobs SET title = 'other'")
            own_postgres.kill()
            connection.exec_driver_sql("UPDATE jobs SET title = 'third'")

    with pytest.raises(Unavailable):
        change_all()
    own_postgres.start()
    assert store.jobs.get(job.id).title == "a merge"


def test_a_lock_that_is_held_too_long_is_given_up(store: Store) -> None:
    job, _ = store.jobs.insert(WISH)

    def change_all() -> None:
        with store.database.write() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            connection.exec_driver_sql("UPDATE jobs SET title = 'other'")

    with store.database.write() as holder:
        holder.exec_driver_sql("SELECT * FROM jobs FOR UPDATE")
        with pytest.raises(Unavailable, match="lock timeout"):
            change_all()
    with store.database.read() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "10s"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "15s"
    assert store.jobs.get(job.id).title == "a merge"


def test_a_lab_that_finds_no_database_at_its_start_says_so(
    own_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.core.store.opening.START_SECONDS", 0.0)
    url = own_postgres.fresh()
    own_postgres.stop()
    with pytest.raises(LabError, match="does not answer"):
        open_store(Settings(data=tmp_path, database_url=url))
