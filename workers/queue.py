"""The queue: one Huey instance per lane in the data folder, whose messages carry a job id and nothing else.

A message is a hint that a job waits. Losing every message loses no job; forging one does no more
than wake a worker.
"""

import json
import re
from typing import Any, get_args

from huey import SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import SqliteStorage

from lab.core.settings import Settings
from lab.core.spec import Lane, strict_json
from workers.tasks import TASK_NAME, add_task

LONGEST_MESSAGE_BYTES = 4096
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
TASK_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

LANES: tuple[Lane, ...] = get_args(Lane)


class JobIdSerializer(Serializer):
    """Writes and reads one shape of message: the one task, one job id. Anything else is refused unread."""

    def _serialize(self, data: object) -> bytes:
        if not isinstance(data, Message):
            raise ValueError(f"The queue carries job ids only, not a {type(data).__name__}.")
        extras = (data.eta, data.on_complete, data.on_error, data.expires, data.timeout, data.chord_config)
        if data.name != TASK_NAME or data.kwargs or data.retries or any(item is not None for item in extras):
            raise ValueError("The queue carries one task with one job id: no delay, retry or callback.")
        if len(data.args) != 1 or not isinstance(data.args[0], str) or not JOB_ID.fullmatch(data.args[0]):
            raise ValueError("The queue's task takes one job id.")
        return json.dumps({"id": data.id, "task": data.name, "job": data.args[0]}, allow_nan=False).encode()

    def _deserialize(self, data: bytes) -> Message:
        if len(data) > LONGEST_MESSAGE_BYTES:
            raise ValueError(f"A message of {len(data)} bytes; ours have {LONGEST_MESSAGE_BYTES} at most.")
        message = strict_json(bytes(data).decode())
        if not isinstance(message, dict) or message.keys() != {"id", "task", "job"}:
            raise ValueError("A message that is not ours: we expect id, task and job.")
        if message["task"] != TASK_NAME:
            raise ValueError("A message for a task that we do not have.")
        for key, shape in (("id", TASK_ID), ("job", JOB_ID)):
            if not isinstance(message[key], str) or not shape.fullmatch(message[key]):
                raise ValueError(f"A message whose {key} is not an id.")
        return Message(message["id"], TASK_NAME, retries=0, retry_delay=0, args=(message["job"],), kwargs={})


class LaneStorage(SqliteStorage):
    """Huey's SQLite storage without a disk flush per message: a power cut may lose a bell, never the file."""

    def _create_connection(self) -> Any:
        connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        return connection


def open_queue(settings: Settings, lane: Lane) -> SqliteHuey:
    """Open one lane's queue in the data folder, without a task."""
    settings.make_folders()
    return SqliteHuey(
        f"lab-{lane}",
        results=False,
        serializer=JobIdSerializer(),
        storage_class=LaneStorage,
        filename=str(settings.data / "queue.db"),
    )


class Bell:
    """Wakes a lane's workers. Ringing twice, or for a job that has ended, does no harm.

    Args:
        settings: where the queue lives.
        lane: whose workers to wake.
    """

    def __init__(self, settings: Settings, lane: Lane) -> None:
        self._queue = open_queue(settings, lane)
        self._task: Any = add_task(self._queue, _not_here)

    def ring(self, job_id: str) -> None:
        """Put the job's id into the lane's queue."""
        self._task(job_id)

    def waiting(self) -> int:
        """Return how many messages wait to be read."""
        return int(self._queue.pending_count())


def make_bells(settings: Settings) -> dict[Lane, Bell]:
    """Return the bell of every lane."""
    return {lane: Bell(settings, lane) for lane in LANES}


def _not_here() -> None:
    raise RuntimeError("This process rings bells; it runs no jobs.")
