"""The queue: one Huey instance per lane, whose messages carry a job id and nothing else.

It lives where the database lives (the data folder, or Postgres) unless it is given a Redis. A message is
a hint that a job waits. Losing every message loses no job; forging one does no more than wake a worker.
"""

import hmac
import json
import logging
import re
import time
from typing import Any, get_args

import psycopg
from huey import Huey, PostgresHuey, PriorityRedisHuey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import PostgresStorage, PriorityRedisStorage, SqliteStorage
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from lab.core.settings import Settings
from lab.core.spec import Lane, strict_json
from workers.tasks import TASK_NAME, add_task

log = logging.getLogger(__name__)

LONGEST_MESSAGE_BYTES = 4096
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
TASK_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
REST_SECONDS = 2.0
"""A bell that did not ring is left alone for so long: who submits must not wait for a dead server."""

LANES: tuple[Lane, ...] = get_args(Lane)

QUEUE_LOCK = 0x62656C6C
"""The advisory lock under which one host at a time creates the queue's tables in Postgres."""
_POSTGRES_CONNECT: dict[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "crucible-queue",
    # As on SQLite, a power cut may lose a bell.
    "options": "-c statement_timeout=5s -c synchronous_commit=off",
}
NO_ANSWER = (RedisError, psycopg.Error, SqliteStorage.operational_error, OSError)
"""What the queues' libraries raise while a server does not answer or a file is locked."""


class JobIdSerializer(Serializer):
    """Writes and reads one shape of message: the one task, one job id. Anything else is refused unread.

    Args:
        key: signs every message (HMAC-SHA256); "" where only this machine reaches the queue.
    """

    def __init__(self, key: str = "") -> None:
        super().__init__()
        self._key = key.encode()

    def _serialize(self, data: object) -> bytes:
        if not isinstance(data, Message):
            raise ValueError(f"The queue carries job ids only, not a {type(data).__name__}.")
        extras = (data.eta, data.on_complete, data.on_error, data.expires, data.timeout, data.chord_config)
        if data.name != TASK_NAME or data.kwargs or data.retries or any(item is not None for item in extras):
            raise ValueError("The queue carries one task with one job id: no delay, retry or callback.")
        if len(data.args) != 1 or not isinstance(data.args[0], str) or not JOB_ID.fullmatch(data.args[0]):
            raise ValueError("The queue's task takes one job id.")
        message = {"id": data.id, "task": data.name, "job": data.args[0]}
        signature = {"signature": self._sign(message)} if self._key else {}
        return json.dumps({**message, **signature}, allow_nan=False).encode()

    def _deserialize(self, data: bytes) -> Message:
        if len(data) > LONGEST_MESSAGE_BYTES:
            raise ValueError(f"A message of {len(data)} bytes; ours have {LONGEST_MESSAGE_BYTES} at most.")
        message = strict_json(bytes(data).decode())
        signature = message.pop("signature", "") if isinstance(message, dict) and self._key else ""
        if not isinstance(message, dict) or message.keys() != {"id", "task", "job"}:
            raise ValueError("A message that is not ours: we expect id, task and job.")
        if message["task"] != TASK_NAME:
            raise ValueError("A message for a task that we do not have.")
        for key, shape in (("id", TASK_ID), ("job", JOB_ID)):
            if not isinstance(message[key], str) or not shape.fullmatch(message[key]):
                raise ValueError(f"A message whose {key} is not an id.")
        if self._key and not hmac.compare_digest(str(signature).encode(), self._sign(message).encode()):
            raise ValueError("A message that is not signed with LAB_QUEUE_KEY.")
        return Message(message["id"], TASK_NAME, retries=0, retry_delay=0, args=(message["job"],), kwargs={})

    def _sign(self, message: dict[str, str]) -> str:
        text = "\n".join((message["id"], message["task"], message["job"]))
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()


class SqliteLane(SqliteStorage):
    """Huey's SQLite storage without a disk flush per message: a power cut may lose a bell, never the file."""

    def _create_connection(self) -> Any:
        connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        return connection


class PostgresLane(PostgresStorage):
    """Huey's Postgres storage (LISTEN and NOTIFY), whose tables several hosts may create at once."""

    def initialize_schema(self) -> None:
        """Create the tables where they are missing, one host at a time."""
        with self.db(commit=True, close=True) as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s)", (QUEUE_LOCK,))
            for statement in self.ddl:
                cursor.execute(statement)

    def read_schedule(self, _: object) -> list[bytes]:
        """Nothing of ours is ever delayed: ask nobody."""
        return []


class RedisLane(PriorityRedisStorage):
    """Huey's storage on Redis, which blocks until a message comes."""

    def read_schedule(self, _: object) -> list[bytes]:
        """Nothing of ours is ever delayed: ask nobody."""
        return []


def open_queue(settings: Settings, lane: Lane) -> Huey:
    """Open one lane's queue, without a task: on Redis where one is named, else where the database is."""
    name, serializer = f"lab-{lane}", JobIdSerializer(settings.queue_key)
    if settings.queue_url:
        pool = _redis_pool(settings.queue_url)
        return PriorityRedisHuey(
            name, results=False, serializer=serializer, storage_class=RedisLane, connection_pool=pool
        )
    if settings.postgres:
        return PostgresHuey(
            name,
            results=False,
            serializer=serializer,
            storage_class=PostgresLane,
            dsn=settings.postgres,
            table_prefix="lab_queue",
            **_POSTGRES_CONNECT,
        )
    settings.make_folders()
    return SqliteHuey(
        name,
        results=False,
        serializer=serializer,
        storage_class=SqliteLane,
        filename=str(settings.data / "queue.db"),
    )


def _redis_pool(url: str) -> ConnectionPool:
    """Return connections that fail soon: the row is in the database, and the reaper rings again."""
    return ConnectionPool.from_url(
        url,
        socket_connect_timeout=2,
        socket_timeout=5,  # longer than the second that a worker waits for a message
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
    )


class Bell:
    """Wakes a lane's workers. Ringing twice, or for a job that has ended, does no harm.

    Args:
        settings: where the queue lives.
        lane: whose workers to wake.
    """

    def __init__(self, settings: Settings, lane: Lane) -> None:
        self._queue = open_queue(settings, lane)
        self._lane = lane
        self._task: Any = add_task(self._queue, _not_here)
        self._rests_until = float("-inf")

    def ring(self, job_id: str) -> bool:
        """Put the job's id into the lane's queue.

        A queue that does not answer is noted and left alone for a moment: the job's row is in the
        database, and the reaper rings for it.

        Returns:
            Whether it rang.
        """
        if time.monotonic() < self._rests_until:
            return False
        try:
            self._ring_twice(job_id)
        except NO_ANSWER as error:
            self._rests_until = time.monotonic() + REST_SECONDS
            log.warning("The %s queue does not answer (%s); the reaper rings again.", self._lane, error)
            return False
        return True

    def waiting(self) -> int:
        """Return how many messages wait to be read; none while the queue does not answer."""
        try:
            return int(self._queue.pending_count())
        except NO_ANSWER:
            return 0

    def close(self) -> None:
        """Close the connection, where there is one."""
        self._queue.storage.close()

    def _ring_twice(self, job_id: str) -> None:
        """Ring; once more on a fresh connection where the old one had died with its server."""
        try:
            self._task(job_id)
        except psycopg.OperationalError:
            self._task(job_id)


def make_bells(settings: Settings) -> dict[Lane, Bell]:
    """Return the bell of every lane."""
    return {lane: Bell(settings, lane) for lane in LANES}


def _not_here() -> None:
    raise RuntimeError("This process rings bells; it runs no jobs.")
