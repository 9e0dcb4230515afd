"""A message carries a job id and nothing else; signed, where others reach the queue."""

import json
import pickle

import pytest
from huey.registry import Message

from workers.queue import LONGEST_MESSAGE_BYTES, JobIdSerializer
from workers.tasks import TASK_NAME

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


def test_a_signed_message_is_read_with_the_same_key_only() -> None:
    written = JobIdSerializer("secret").serialize(message())
    assert set(json.loads(written)) == {*OURS, "signature"}
    assert JobIdSerializer("secret").deserialize(written).args == ("abc123",)
    for key in ("other", ""):
        with pytest.raises(ValueError):
            JobIdSerializer(key).deserialize(written)


@pytest.mark.parametrize("signature", [None, "", "0" * 64, 5, ["a"]])
def test_a_message_without_our_signature_is_refused(signature: object) -> None:
    forged = json.dumps({**OURS, **({} if signature is None else {"signature": signature})}).encode()
    with pytest.raises(ValueError, match="not signed"):
        JobIdSerializer("secret").deserialize(forged)


def test_a_signature_holds_for_its_own_job_only() -> None:
    written = json.loads(JobIdSerializer("secret").serialize(message()))
    with pytest.raises(ValueError, match="not signed"):
        JobIdSerializer("secret").deserialize(json.dumps({**written, "job": "other"}).encode())
