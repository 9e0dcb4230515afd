"""Opens the database, migrates it, and hands out transactions. Knows no table."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    create_engine,
    event,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from lab.core.errors import LabError

BUSY_SECONDS = 10
MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "lab_writes"

SQLITE_NOW: ColumnElement[float] = literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
POSTGRES_NOW: ColumnElement[float] = literal_column("extract(epoch from clock_timestamp())", Float)


class Database:
    """An engine and the clock that counts: the database's own, never the host's.

    Args:
        url: SQLAlchemy URL.
        now: SQL expression for the present in seconds since 1970; tests pass one of their own.
    """

    def __init__(self, url: str, now: ColumnElement[float] | None = None) -> None:
        self.engine = _make_engine(url)
        clock = SQLITE_NOW if self.engine.dialect.name == "sqlite" else POSTGRES_NOW
        self.now = clock if now is None else now
        self._writer = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: on SQLite it takes the write lock at once, so it never deadlocks.

        Raises:
            LabError: the database stayed locked for ten seconds, or its disk is full.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except OperationalError as error:
            raise LabError(
                f"The lab's database can't be written: {error.orig}. Nothing was changed. "
                "Free disk space, or wait until the other program is done with it, and try again."
            ) from error

    def migrate(self) -> None:
        """Bring the schema to this release. An older release's database keeps its rows."""
        if self._is_current():
            return
        from alembic import command  # a third of a second that an up-to-date lab need not wait
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self._writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _is_current(self) -> bool:
        """Whether the newest migration, by the number in its file's name, is the database's own."""
        newest = max(file.name.split("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return False
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == newest

    def time(self) -> float:
        """Return the present by the database's clock, in seconds since 1970."""
        with self.read() as connection:
            return float(connection.execute(select(self.now)).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _make_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args=_connect_args(url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _connect_args(url: str) -> dict[str, object]:
    if not url.startswith("sqlite"):
        return {}
    return {"timeout": BUSY_SECONDS, "check_same_thread": False}


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
