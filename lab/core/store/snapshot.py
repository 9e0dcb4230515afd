"""All rows of a lab as lines of JSON, of one moment, for backups: the same on every kind of database.

The first line says which migration the rows are of; every other line is {table: row}.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, TextIO

from sqlalchemy import Connection, MetaData, insert, inspect, select, text

from lab.core.errors import BadInput
from lab.core.store.database import Database
from lab.core.store.schema import metadata

TRANSIENT = ("workers", "devices")
"""Who is at work now, and on what: of no use in another lab."""
_BATCH = 500
_NO_LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def save(database: Database, out: TextIO) -> dict[str, int]:
    """Write all rows, as they are at one moment; return how many of each table.

    Raises:
        Unavailable: the database does not answer.
    """
    counts: dict[str, int] = {}
    with _one_moment(database) as connection:
        _say(out, {"schema": _schema_of(connection)})
        for table in _tables(connection).sorted_tables:
            counts[table.name] = 0
            query = select(table).order_by(*table.primary_key).execution_options(yield_per=_BATCH)
            for row in connection.execute(query):
                _say(out, {table.name: dict(row._mapping)})
                counts[table.name] += 1
    return counts


def prepare(database: Database, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Make an empty database ready for saved rows, at the migration that they are of; return the rows.

    Raises:
        BadInput: the database holds rows already, or the lines are no snapshot that we can read.
        LabError: a newer release saved them.
    """
    rows = _parse(lines)
    schema = next(rows, {}).get("schema")
    if not isinstance(schema, str):
        raise BadInput("The file is no snapshot of a lab.", "Its first line names a schema.", "")
    database.expect_no_newer(schema)
    database.migrate(schema)
    with database.read() as connection:
        _check_is_empty(connection, schema)
    return rows


def load(database: Database, lines: Iterable[str]) -> dict[str, int]:
    """Bring saved rows into an empty database, all or none, then bring it to this release.

    Jobs that ran keep their state; their leases have lapsed, so that they are queued again.

    Raises:
        BadInput, LabError: as `prepare`.
    """
    rows = prepare(database, lines)
    with database.write() as connection:
        _lift_limits(connection)
        with _without_triggers(connection):
            counts = _insert(connection, rows)
    database.migrate()
    return counts


def rows_of(lines: Iterable[str], table: str) -> Iterator[dict[str, Any]]:
    """Yield the saved rows of one table."""
    for row in _parse(lines):
        if table in row:
            yield row[table]


def _insert(connection: Connection, rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    tables = _tables(connection).tables
    counts = dict.fromkeys(tables, 0)
    for name, group in groupby(rows, key=lambda row: next(iter(row))):
        if name not in tables:
            raise BadInput(f"The snapshot has rows of {name!r}, which this lab does not know.", "", "")
        batch: list[dict[str, Any]] = []
        for row in group:
            batch.append(row[name])
            if len(batch) == _BATCH:
                connection.execute(insert(tables[name]), batch)
                batch = []
            counts[name] += 1
        if batch:
            connection.execute(insert(tables[name]), batch)
    return counts


def _tables(connection: Connection) -> MetaData:
    """Return the lab's tables as they are in this database, whatever its release."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in metadata.tables and name not in TRANSIENT)
    return found


def _check_is_empty(connection: Connection, schema: str) -> None:
    there = _schema_of(connection)
    if there != schema:
        raise BadInput(
            f"The database is of schema {there}; the backup is of {schema}.",
            "A backup is restored into a database of its own release, then brought to this one.",
            "Name an empty database: a new data folder, or one that createdb has just made.",
        )
    for table in _tables(connection).sorted_tables:
        if connection.execute(select(table).limit(1)).first():
            raise BadInput(
                f"There is a lab already: its table {table.name} has rows.",
                "A backup is restored into an empty lab.",
                "Name a new data folder or an empty database.",
            )


def _schema_of(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


@contextmanager
def _one_moment(database: Database) -> Iterator[Connection]:
    """A connection that sees the rows of one moment, however long it takes."""
    if database.engine.dialect.name == "sqlite":
        with database.read() as connection:
            yield connection
        return
    with database.read():  # says it in words when the database does not answer
        pass
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.begin() as connection:
        _lift_limits(connection)
        yield connection


def _lift_limits(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        for limit in _NO_LIMITS:
            connection.exec_driver_sql(f"SET LOCAL {limit} = 0")


@contextmanager
def _without_triggers(connection: Connection) -> Iterator[None]:
    """Let rows in as they were: the triggers would have each job begin as queued."""
    if connection.dialect.name == "postgresql":
        names = [name for name in inspect(connection).get_table_names() if name in metadata.tables]
        for name in names:
            connection.exec_driver_sql(f'ALTER TABLE "{name}" DISABLE TRIGGER USER')
        yield
        for name in names:
            connection.exec_driver_sql(f'ALTER TABLE "{name}" ENABLE TRIGGER USER')
        return
    found = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for name, _ in found:
        connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
    yield
    for _, made_by in found:
        connection.exec_driver_sql(made_by)


def _say(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _parse(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or len(row) != 1:
            raise BadInput(f"Line {number} of the snapshot can't be read.", "", "Take another snapshot.")
        yield row
