"""Postgres and Redis servers that the tests start themselves, and a place to keep a lab's data on each.

`backend` runs a test on every backend, `database` on every kind of database; `postgres` and `redis` are
the session's servers. A test that hurts a server takes `own_postgres` or `own_redis`. A case that lacks a
server's program is skipped.
"""

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.database import MIGRATIONS
from lab.core.store.schema import metadata

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
START_SECONDS = 30.0
SPARE = "lab_spare"
NEWEST = max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).split("_")[0]


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One server process on 127.0.0.1, in a temporary folder. It can be killed and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def launcher(self) -> list[str]:
        """Return the command with what goes before it: the server ends with us, however we end."""
        return ["setpriv", "--pdeathsig", "KILL", *self.command()]

    def user(self) -> dict[str, object]:
        """Return as whom the launcher is started."""
        return _as_user()

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                self.launcher(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                **self.user(),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"{self.command()[0]} did not start: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut the server down in order, without waiting for its clients."""
        self._end(signal.SIGINT)

    def pause(self) -> None:
        """Stop the server's main process: it takes no new connection (and a Redis answers nothing)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a paused server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End the server and delete its folder."""
        if self.process and self.process.poll() is None:
            self.go_on()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(START_SECONDS)


@dataclass
class Postgres(Server):
    """A Postgres server. `fresh` gives each test an empty lab; `new_database` makes one to keep apart."""

    listens_on: str = "127.0.0.1"

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://lab@127.0.0.1:{self.port}/{name}"

    def command(self) -> list[str]:
        where = ["-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)]
        options = {
            "listen_addresses": self.listens_on,
            "fsync": "off",  # a killed process loses nothing by it, only a power cut would
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "autovacuum": "off",
        }
        return [
            str(POSTGRES_PROGRAMS[-1] / "postgres"),
            *where,
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def make(self) -> None:
        """Make the data folder with a migrated template and a spare copy of it; leave the server stopped."""
        setup = [str(POSTGRES_PROGRAMS[-1] / "initdb"), "-D", str(self.folder / "data"), "-U", "lab"]
        options = ["-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run([*setup, *options], check=True, capture_output=True, **_as_user())  # type: ignore[call-overload]
        self.start()
        self.execute("CREATE DATABASE template_lab")
        store = Store(sqlalchemy_url(self.url("template_lab")))
        store.database.migrate()
        store.close()
        self.execute(f"CREATE DATABASE {SPARE} TEMPLATE template_lab")
        self.stop()

    def new_database(self, template: str = "template_lab") -> str:
        """Return the URL of a fresh database; `template0` makes an empty one, without tables."""
        name = f"lab_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def fresh(self) -> str:
        """Return the URL of a migrated database without rows: always the same one, emptied again.

        Whoever is still connected is thrown out. Making a new one would take ten times as long.
        """
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(_THROW_OUT, [SPARE])
        with psycopg.connect(self.url(SPARE), autocommit=True) as connection:
            connection.execute(_EMPTY)
        return self.url(SPARE)

    def drop(self, url: str) -> None:
        """Delete a database, whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


_THROW_OUT = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
_LAB_TABLES = ("alembic_version", *(table.name for table in metadata.sorted_tables))
_EMPTY = f"""DO $$
DECLARE other record;
BEGIN
    FOR other IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename <> ALL (ARRAY{list(_LAB_TABLES)}) LOOP
        EXECUTE format('DROP TABLE %I CASCADE', other.tablename);
    END LOOP;
    TRUNCATE {", ".join(_LAB_TABLES[1:])};
    UPDATE alembic_version SET version_num = '{NEWEST}';
END $$""".encode()


@dataclass
class Redis(Server):
    """A Redis server that keeps nothing on disk unless `options` say so."""

    options: tuple[str, ...] = ("--save", "", "--appendonly", "no")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        return ["redis-server", *where, *self.options]

    def answers(self) -> bool:
        return self._say(b"PING\r\n").startswith(b"+PONG")

    def flush(self) -> None:
        """Forget everything: FLUSHALL."""
        assert self._say(b"FLUSHALL\r\n").startswith(b"+OK")

    def _say(self, command: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(command)
                return connection.recv(100)
        except OSError:
            return b""


def sqlalchemy_url(url: str) -> str:
    """Return a URL as the store reads it."""
    return Settings(database_url=url).database


def _as_user() -> dict[str, object]:
    """Postgres refuses to run as root: servers run as its own user then."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def _give_to_user(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")


def server_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lab-server-"))  # short, for the socket's path has 107 characters
    _give_to_user(folder)
    return folder


def make_postgres() -> Postgres:
    """Start a Postgres server, or skip the test where its programs are missing."""
    if not POSTGRES_PROGRAMS:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    server = Postgres(server_folder())
    copy_data(server.folder)
    server.start()
    return server


def copy_data(folder: Path) -> None:
    """Give a new server's folder its data, with a migrated template in it."""
    subprocess.run(["cp", "-a", str(_made_once().folder / "data"), str(folder)], check=True)


@functools.cache
def _made_once() -> Postgres:
    """Make a data folder for all servers of this run: setting one up takes two seconds, copying it little."""
    made = Postgres(server_folder())
    atexit.register(made.remove)
    made.make()
    return made


def make_redis(*options: str) -> Redis:
    """Start a Redis server, or skip the test where its program is missing."""
    if not shutil.which("redis-server"):
        pytest.skip("Redis is not installed (apt-get install redis-server)")
    server = Redis(server_folder(), options=options or Redis.options)
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's Postgres server. Do not kill it: `own_postgres` is for that."""
    server = make_postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """The session's Redis server. Do not kill it: `own_redis` is for that."""
    server = make_redis()
    yield server
    server.remove()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A Postgres server that this test may kill."""
    server = make_postgres()
    yield server
    server.remove()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis server that this test may kill."""
    server = make_redis()
    yield server
    server.remove()


@dataclass(frozen=True)
class Backend:
    """Where a test's lab keeps its rows and its bells. `postgres` and `redis` are the servers, if any."""

    name: str
    database_url: str = ""
    queue_url: str = ""
    postgres: Postgres | None = None
    redis: Redis | None = None

    def settings(self, data: Path, **fields: object) -> Settings:
        """Return a lab's settings on this backend."""
        ours = {"data": data, "database_url": self.database_url, "queue_url": self.queue_url}
        return Settings(**{**ours, **fields})  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """Return what a process of such a lab finds in its environment."""
        return {"LAB_DATABASE_URL": self.database_url, "LAB_QUEUE_URL": self.queue_url}


ON_SERVERS = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.server),
    pytest.param("redis", marks=pytest.mark.server),
]


@pytest.fixture(params=ON_SERVERS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """SQLite with SqliteHuey; Postgres with PostgresHuey; Postgres with PriorityRedisHuey."""
    yield from open_backend(request, request.param)


@pytest.fixture(params=ON_SERVERS[:2])
def database(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The two kinds of database: for what does not concern the queue."""
    yield from open_backend(request, request.param)


def open_backend(request: pytest.FixtureRequest, name: str, own: bool = False) -> Iterator[Backend]:
    """Give a test its backend by name, on the session's servers or (`own`) on servers it may kill."""
    if name == "sqlite":
        yield Backend(name)
        return
    prefix = "own_" if own else ""
    postgres = request.getfixturevalue(f"{prefix}postgres")
    redis = request.getfixturevalue(f"{prefix}redis") if name == "redis" else None
    if redis:
        redis.flush()
    yield Backend(name, postgres.fresh(), redis.url if redis else "", postgres, redis)
