"""The queue carries job ids and nothing else."""

import json
import pickle
from pathlib import Path

import pytest
from huey.registry import Message

from lab.core.settings import Settings
from workers.queue import LONGEST_MESSAGE_BYTES, JobIdSerializer, make_bells, open_queue
from workers.tasks import TASK_NAME, add_task

OURS = {"id": "0a1b-2c", "task": TASK_NAME, "job": "abc123"}


def message(**changes: object) -> Message:
    fields = {"id": "0a1b-2c", "name": TASK_NAME, "retries": 0, "args": ("abc123",), "kwargs": {}}
    return Message(**{**fields, **changes})


def test_a_message_is_read_as_it_was_written() -> None:
    serializer = JobIdSerializer()
    written = serializer.serialize(message())
    assert json.loads(written) == OURS
    read = serializer.deserialize(written)
    assert (read.id, read.name, read.args, read.kwargs) == ("0a1b-2c", TASK_NAME, ("abc123",), {})
    assert (read.eta, read.retries, read.on_complete, read.on_error) == (None, 0, None, None)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(message()),
        b"x" * (LONGEST_MESSAGE_BYTES + 1),
        b"",
        b"not json",
        b"\xff\xfe",
        b"[" * 3000,
        b'["list"]',
        json.dumps({**OURS, "task": "os.system"}).encode(),
        json.dumps({**OURS, "job": "../../etc/passwd"}).encode(),
        json.dumps({**OURS, "job": ["abc"]}).encode(),
        json.dumps({**OURS, "job": 5}).encode(),
        json.dumps({**OURS, "job": ""}).encode(),
        json.dumps({**OURS, "job": "a" * 65}).encode(),
        json.dumps({**OURS, "id": None}).encode(),
        json.dumps({**OURS, "eta": 1}).encode(),
        json.dumps({**OURS, "on_complete": OURS}).encode(),
        json.dumps({"id": "1", "task": TASK_NAME}).encode(),
        b'{"id": "1", "task": "workers.tasks.run_job", "job": "a", "job": "b"}',
    ],
)
def test_anything_else_is_refused_unread(data: bytes) -> None:
    with pytest.raises(ValueError):
        JobIdSerializer().deserialize(data)


@pytest.mark.parametrize(
    "what",
    [
        {"a": "result"},
        message(name="os.system"),
        message(args=("a", "b")),
        message(args=()),
        message(args=(b"bytes",)),
        message(kwargs={"job_id": "a"}),
        message(retries=3),
        message(eta=1.0),
        message(on_complete=message()),
        message(timeout=5),
    ],
)
def test_nothing_else_can_be_written(what: object) -> None:
    with pytest.raises(ValueError):
        JobIdSerializer().serialize(what)


def test_a_bell_rings_in_its_own_lane_only(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    bells = make_bells(settings)
    bells["chat"].ring("job1")
    assert (bells["chat"].waiting(), bells["batch"].waiting()) == (1, 0)


def test_a_rung_bell_makes_the_lane_work_and_tells_it_no_job(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    worked = []
    queue = open_queue(settings, "batch")
    add_task(queue, lambda: worked.append("worked"))
    make_bells(settings)["batch"].ring("job1")
    queue.execute(queue.dequeue())
    assert worked == ["worked"]


def test_the_process_that_rings_runs_nothing(tmp_path: Path) -> None:
    bell = make_bells(Settings(data=tmp_path))["batch"]
    bell.ring("job1")
    with pytest.raises(RuntimeError, match="runs no jobs"):
        bell._task.call_local("job1")
