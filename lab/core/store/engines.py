"""How the store talks to each database: SQLite in the data folder, or a Postgres server.

Everything that differs between the two is here and in the migrations.
"""

import sqlite3

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    Insert,
    Table,
    create_engine,
    event,
    literal_column,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 10
WRITES = "lab_writes"

NOW: dict[str, ColumnElement[float]] = {
    "sqlite": literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float),
    "postgresql": literal_column("CAST(extract(epoch FROM clock_timestamp()) AS double precision)", Float),
}
"""The present by each database's own clock, in seconds since 1970."""

_POSTGRES_POOL = {
    "pool_size": 5,  # kept open by each process
    "max_overflow": 25,  # and this many more while many pages ask at once
    "pool_timeout": 10,
    "pool_pre_ping": True,  # a connection that died with its server is replaced, not handed out
    "pool_recycle": 1800,
}
POSTGRES_CONNECT: dict[str, object] = {
    "connect_timeout": 5,
    # A cut cable is noticed within ten seconds, also while nothing is sent.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_POSTGRES_LIMITS = {
    "statement_timeout": "15s",
    "lock_timeout": "10s",
    # A host that is cut off in the middle of a write must not hold a row beyond its lease.
    "idle_in_transaction_session_timeout": "10s",
}


def make_engine(url: str) -> Engine:
    """Return an engine whose connections are set up for the lab."""
    if not url.startswith("sqlite"):
        options = " ".join(f"-c {name}={value}" for name, value in _POSTGRES_LIMITS.items())
        connect: dict[str, object] = {**POSTGRES_CONNECT, "options": options, "application_name": "crucible"}
        return create_engine(url, connect_args=connect, **_POSTGRES_POOL)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """Return the same engine for reads: on Postgres without a transaction, which saves two round trips."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def upsert(engine_name: str, table: Table, **values: object) -> Insert:
    """Return an insert that replaces the row of the same primary key; no two writers can both insert it."""
    insert = sqlite.insert(table) if engine_name == "sqlite" else postgresql.insert(table)
    keys = [column.name for column in table.primary_key]
    rest = {name: value for name, value in values.items() if name not in keys}
    return insert.values(values).on_conflict_do_update(index_elements=keys, set_=rest)


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
