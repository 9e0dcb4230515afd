"""A backup is made while the lab runs and comes back whole, on the same kind of database or another."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Backend
from sqlalchemy import text
from test_migrations import ROW, bring_to
from tiny_models import write_model

from lab import cli
from lab.core.errors import BadInput
from lab.core.events import NewEvent
from lab.core.job import NewModel
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.snapshot import save
from lab.data.importing import import_dataset
from lab.models.backup import back_up, restore
from lab.models.catalog import Catalog
from lab.models.publish import finish, model_row, place
from lab.models.storeroom import Storeroom

SCORE = {
    "model": "pirate",
    "metric": "accuracy",
    "data": "mc40",
    "value": 0.1,
    "low": 0.0,
    "high": 0.3,
    "n": 40,
}


def fill(settings: Settings) -> Store:
    """Make a lab with a model, a dataset, and a job in every state."""
    store = open_store(settings)
    brought = settings.data / "brought.jsonl"
    brought.write_text('{"instruction": "Grüße", "output": "ahoy"}\n')
    import_dataset(brought, "mine", "me", store, settings.datasets)
    publish(settings, store, "pirate")
    for name in ("failed", "cancelled", "cancelling", "running", "queued"):
        job = submit(store, name)
        if name != "queued":
            row = store.jobs.claim("batch", "w", "cpu")
            assert row is not None
            store.jobs.append(job, row.attempt, [NewEvent("note", {"text": "¡hola!", "level": "info"})])
        if name == "failed":
            store.jobs.fail(job, 1, "bad_input", "It can't work.")
        if name.startswith("cancel"):
            store.jobs.request_cancel(job)
        if name == "cancelled":
            store.jobs.cancelled(job, 1)
    return store


def submit(store: Store, name: str) -> str:
    new = NewJob("me", name, "merge", "batch", name, {"a": [1, None]}, "5" * 64, True, (name,))
    return store.jobs.insert(new)[0].id


def publish(settings: Settings, store: Store, name: str) -> None:
    job = submit(store, name)
    while store.jobs.get(job).state == "queued":
        store.jobs.claim("batch", "w", "cpu")
    folder = write_model(settings.jobs / job / "work" / name)
    manifest = finish(NewModel(name, folder, "base"), "5" * 64, job, 1)
    place(folder, settings.models / name)
    store.jobs.succeed(job, 1, Success({"loss": 0.1}, [model_row(manifest, "me")], [SCORE]))


def rows(store: Store) -> list[Any]:
    """Return every row of a lab."""
    out = io.StringIO()
    save(store.database, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture
def new_lab(database: Backend, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a lab that is not there yet, on each kind of database."""
    url = database.postgres.new_database("template0") if database.postgres else ""
    yield Settings(data=tmp_path / "new", database_url=url)
    if database.postgres:
        database.postgres.drop(url)


def said(words: str) -> None:
    """Take what a backup tells, for nobody."""


def test_a_restored_lab_has_every_row_and_every_file(
    database: Backend, new_lab: Settings, tmp_path: Path
) -> None:
    old = database.settings(tmp_path / "old")
    store = fill(old)
    room = Storeroom(str(tmp_path / "backup"))
    tally = back_up(store, old, room, said)
    assert (tally.models, tally.datasets, tally.rows["jobs"], tally.left_out) == (1, 1, 6, ())
    restore(new_lab, room, said)
    restored = open_store(new_lab)
    assert rows(restored) == rows(store)
    whole = Catalog(restored, new_lab).model("pirate")
    assert all(
        (whole / file.name).read_bytes() == file.read_bytes() for file in (old.models / "pirate").iterdir()
    )
    assert (new_lab.datasets / "mine.jsonl").read_bytes() == (old.datasets / "mine.jsonl").read_bytes()
    store.close()
    restored.close()


def test_the_jobs_of_a_restored_lab_go_on(database: Backend, new_lab: Settings, tmp_path: Path) -> None:
    old = database.settings(tmp_path / "old")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    restore(new_lab, room, said)
    restored = open_store(new_lab)
    with restored.database.write() as connection:  # as if the backup were older than a lease
        connection.execute(
            text("UPDATE jobs SET lease_until = 1 WHERE lease_until IS NOT NULL AND finished IS NULL")
        )
    assert {(row.title, row.state) for row in restored.jobs.reap()} == {
        ("running", "queued"),
        ("cancelling", "cancelled"),
    }
    claimed = restored.jobs.claim("batch", "w", "cpu")
    assert claimed is not None
    with pytest.raises(Exception, match="illegal transition"), restored.database.write() as connection:
        connection.execute(text("UPDATE jobs SET state = 'running' WHERE state = 'failed'"))
    store.close()
    restored.close()


def test_a_sqlite_lab_moves_to_postgres(database: Backend, new_lab: Settings, tmp_path: Path) -> None:
    old = Settings(data=tmp_path / "old")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    restore(new_lab, room, said)
    restored = open_store(new_lab)
    assert rows(restored) == rows(store)
    store.close()
    restored.close()


def test_a_backup_of_an_earlier_release_is_restored_and_migrated(
    database: Backend, new_lab: Settings, tmp_path: Path
) -> None:
    url = database.postgres.new_database("template0") if database.postgres else ""
    old = Settings(data=tmp_path / "old", database_url=url)
    bring_to(old, "0001")
    store, room = Store(old.database), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    restore(new_lab, room, said)
    restored = open_store(new_lab)
    claimed = restored.jobs.claim("batch", "w", "cpu")
    assert claimed is not None
    assert claimed.title == ROW["title"]
    for one in (store, restored):
        one.close()
    if database.postgres:
        database.postgres.drop(url)


def test_a_second_backup_copies_only_what_is_new_and_the_first_stays_good(tmp_path: Path) -> None:
    old = Settings(data=tmp_path / "old")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    snapshots = tmp_path / "backup" / "snapshots"
    (first,) = [file.name for file in snapshots.glob("*.jsonl")]
    weights = next((tmp_path / "backup").rglob("model.safetensors"))
    written = weights.stat().st_mtime_ns
    publish(old, store, "second")
    back_up(store, old, room, said)
    assert weights.stat().st_mtime_ns == written
    for snapshot, names in ((first, {"pirate"}), ("", {"pirate", "second"})):
        new = Settings(data=tmp_path / f"new-{snapshot}")
        restore(new, room, said, snapshot)
        assert {folder.name for folder in new.models.iterdir() if folder.name[0] != "."} == names
    store.close()


def test_a_lab_of_local_folders_moves_to_an_object_store_by_a_backup(tmp_path: Path) -> None:
    old = Settings(data=tmp_path / "old")
    store = fill(old)
    back_up(store, old, Storeroom(f"file://{tmp_path}/bucket"), said)
    other_host = Settings(
        data=tmp_path / "other", database_url=old.database, store_url=f"file://{tmp_path}/bucket"
    )
    other_host.make_folders()
    catalog = Catalog(store, other_host)
    assert (catalog.model("pirate") / "model.safetensors").is_file()
    assert catalog.dataset("mine").read_bytes() == (old.datasets / "mine.jsonl").read_bytes()
    store.close()


def test_what_was_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    old = Settings(data=tmp_path / "old")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    deleted = Catalog(store, old)

    def delete(words: str) -> None:
        if words == "model pirate":
            deleted.delete("pirate")

    tally = back_up(store, old, room, delete)
    assert tally.left_out == ("model pirate: There is no model 'pirate'.",)
    store.close()


def test_a_lab_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    old = Settings(data=tmp_path / "old")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    before = rows(store)
    with pytest.raises(BadInput, match="There is a lab already"):
        restore(old, room, said)
    assert rows(store) == before
    store.close()


def test_a_damaged_backup_is_refused_and_brings_no_row(tmp_path: Path) -> None:
    old, new = Settings(data=tmp_path / "old"), Settings(data=tmp_path / "new")
    store, room = fill(old), Storeroom(str(tmp_path / "backup"))
    back_up(store, old, room, said)
    weights = next((tmp_path / "backup").rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BadInput, match="is damaged: its sha256 is"):
        restore(new, room, said)
    assert open_store(new).jobs.list() == []
    store.close()


def test_a_place_without_a_backup_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished backup"):
        restore(Settings(data=tmp_path / "new"), Storeroom(str(tmp_path / "nothing")), said)


def test_the_commands_back_up_and_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = cli.Machine(lambda _: (), str, lambda: None)
    fill(Settings(data=tmp_path / "old")).close()
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "old"))
    assert cli.main(["backup", str(tmp_path / "backup")], machine) == cli.DONE
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "new"))
    assert cli.main(["restore", str(tmp_path / "backup")], machine) == cli.DONE
    assert capsys.readouterr().err.count("Models: 1. Datasets: 1. Rows: ") == 2
    assert cli.main(["restore", str(tmp_path / "backup")], machine) == cli.BAD_INPUT
