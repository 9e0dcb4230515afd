"""Bells and lanes' queues, on every backend: SQLite, Postgres, Redis."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Backend, Redis

from lab.core.settings import Settings
from workers.queue import Bell, make_bells, open_queue
from workers.tasks import TASK_NAME, add_task


@pytest.fixture
def settings(backend: Backend, tmp_path: Path) -> Settings:
    return backend.settings(tmp_path)


@pytest.fixture
def bells(settings: Settings) -> Iterator[dict[str, Bell]]:
    bells = make_bells(settings)
    yield bells  # type: ignore[misc]
    for bell in bells.values():
        bell.close()


def test_the_queue_follows_the_database_unless_a_redis_is_named(settings: Settings, backend: Backend) -> None:
    kinds = {"sqlite": "SqliteHuey", "postgres": "PostgresHuey", "redis": "PriorityRedisHuey"}
    assert type(open_queue(settings, "batch")).__name__ == kinds[backend.name]


def test_a_bell_rings_in_its_own_lane_only(bells: dict[str, Bell]) -> None:
    assert bells["chat"].ring("job1")
    assert (bells["chat"].waiting(), bells["batch"].waiting()) == (1, 0)


def test_what_lies_in_the_queue_is_a_job_id_in_json(settings: Settings, bells: dict[str, Bell]) -> None:
    bells["chat"].ring("job1")
    (data,) = open_queue(settings, "chat").storage.enqueued_items()
    message = json.loads(data)
    assert set(message) == {"id", "task", "job"}
    assert (message["task"], message["job"]) == (TASK_NAME, "job1")


def test_a_rung_bell_makes_the_lane_work_and_tells_it_no_job(
    settings: Settings, bells: dict[str, Bell]
) -> None:
    worked = []
    queue = open_queue(settings, "batch")
    add_task(queue, lambda: worked.append("worked"))
    bells["batch"].ring("job1")
    queue.execute(queue.dequeue())
    assert worked == ["worked"]


def test_each_message_is_read_by_one_worker(settings: Settings, bells: dict[str, Bell]) -> None:
    for n in range(20):
        bells["batch"].ring(f"job{n}")
    read: list[str] = []

    def work() -> None:
        queue = open_queue(settings, "batch")
        add_task(queue, lambda: None)
        queue.storage.read_timeout = 0.05
        while (task := queue.dequeue()) is not None:
            read.append(task.args[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == sorted(f"job{n}" for n in range(20))


def test_a_server_wakes_a_worker_that_waits(
    settings: Settings, bells: dict[str, Bell], backend: Backend
) -> None:
    """On SQLite workers ask every few hundredths of a second instead; Huey's consumer does that."""
    queue = open_queue(settings, "batch")
    assert queue.storage.blocking == (backend.name != "sqlite")
    if not queue.storage.blocking:
        return
    add_task(queue, lambda: None)
    queue.storage.read_timeout = 0.2
    assert queue.dequeue() is None  # from now on it listens
    queue.storage.read_timeout = 4
    woken: list[float] = []
    waiter = threading.Thread(target=lambda: woken.append(time.monotonic()) if queue.dequeue() else None)
    waiter.start()
    waiter.join(0.3)  # it waits by now
    rang = time.monotonic()
    bells["batch"].ring("job1")
    waiter.join(5)
    assert woken[0] - rang < 2


def test_hosts_that_open_the_queue_at_once_all_can(backend: Backend, tmp_path: Path) -> None:
    opened: list[object] = []
    settings = backend.settings(tmp_path)
    threads = [threading.Thread(target=lambda: opened.append(open_queue(settings, "chat"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8


def test_the_process_that_rings_runs_nothing(bells: dict[str, Bell]) -> None:
    with pytest.raises(RuntimeError, match="runs no jobs"):
        bells["batch"]._task.call_local("job1")


@pytest.mark.server
class TestADeadRedis:
    def test_a_bell_that_cannot_ring_says_so_and_the_log_notes_it_once(
        self, own_redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bell = Bell(Settings(data=tmp_path, queue_url=own_redis.url), "batch")
        own_redis.kill()
        assert [bell.ring("job1") for _ in range(50)] == [False] * 50
        assert bell.waiting() == 0
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "does not answer" in caplog.text

    def test_a_bell_rings_again_when_it_is_back(
        self, own_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.queue.REST_SECONDS", 0.0)
        bell = Bell(Settings(data=tmp_path, queue_url=own_redis.url), "batch")
        own_redis.kill()
        assert not bell.ring("job1")
        own_redis.start()
        assert bell.ring("job2")
        assert bell.waiting() == 1
