"""Opens the database, migrates it, and hands out transactions. Knows no table."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, inspect, select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lab.core.errors import LabError, Unavailable
from lab.core.store.engines import NOW, WRITES, make_engine, reading

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x63727563
"""The advisory lock that keeps two hosts from migrating one Postgres at once."""

_NO_ANSWER = (OperationalError, InterfaceError, InternalError, PoolTimeout)


class Database:
    """An engine and the clock that counts: the database's own, never the host's.

    Args:
        url: SQLAlchemy URL.
        now: SQL expression for the present in seconds since 1970; tests pass one of their own.
    """

    def __init__(self, url: str, now: ColumnElement[float] | None = None) -> None:
        self.engine = make_engine(url)
        self.now = NOW[self.engine.dialect.name] if now is None else now
        self._reader = reading(self.engine)
        self._writer = self.engine.execution_options(**{WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that only reads. On Postgres each statement sees the present of its own.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            with self._reader.begin() as connection:
                yield connection
        except _NO_ANSWER as error:
            raise Unavailable(
                f"The lab's database does not answer: {_words(error)}. Nothing was lost. "
                "Try again in a moment; if it stays away, see to the database."
            ) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: on SQLite it takes the write lock at once, so it never deadlocks.

        Raises:
            Unavailable: the database stayed locked for ten seconds, does not answer, or its disk is full.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except _NO_ANSWER as error:
            raise Unavailable(
                f"The lab's database can't be written: {_words(error)}. Nothing was changed. "
                "Free disk space, or wait until the database answers again, and try again."
            ) from error

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to this release. An older release's database keeps its rows.

        Args:
            revision: a migration to stop at; a database beyond it stays as it is.

        Raises:
            LabError: the database does not answer, or a newer release of the lab has migrated it.
        """
        if self._is_current():
            return
        from alembic import command  # a third of a second that an up-to-date lab need not wait
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.write() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for a database server that is still starting.

        Raises:
            Unavailable: it did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.time()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def _is_current(self) -> bool:
        """Whether the newest migration, by the number in its file's name, is the database's own.

        Raises:
            LabError: the database's is newer.
        """
        newest = _newest()
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return False
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if found is not None:
            self.expect_no_newer(found)
        return bool(found == newest)

    @staticmethod
    def expect_no_newer(schema: str) -> None:
        """Refuse what a newer release made.

        Raises:
            LabError: this release has no such migration yet.
        """
        if schema > _newest():
            raise LabError(
                f"The lab's database is of a newer release (schema {schema}); this one knows {_newest()}. "
                "Start the newer release, or restore the backup that was made before it."
            )

    def time(self) -> float:
        """Return the present by the database's clock, in seconds since 1970."""
        with self.read() as connection:
            return float(connection.execute(select(self.now)).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _newest() -> str:
    """Return the number of the newest migration."""
    return max(file.name.split("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _words(error: Exception) -> str:
    """Return the first line of what the driver said."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__
