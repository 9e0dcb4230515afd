"""How pages read what jobs say: once for all readers, and no event twice."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeShelf

from lab.core.events import NewEvent
from lab.core.store import NewJob, Store, Success
from lab.core.store.rows import JobRow
from lab.jobs import Desk
from lab.ui.tailing import EVENTS_KEPT, Curves, Ear, tail
from lab.ui.transcript import Transcript

SPEC: dict[str, Any] = {"models": ["a"], "prompt": "Hello?", "earlier": []}


class CountingDesk(Desk):
    """Counts how often events were read."""

    reads = 0

    def follow(self, job_id: str, after_seq: int) -> Any:
        CountingDesk.reads += 1
        return super().follow(job_id, after_seq)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[CountingDesk]:
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    CountingDesk.reads = 0
    yield CountingDesk(store, FakeShelf(tmp_path), {})
    store.close()


@pytest.fixture
def job(desk: Desk) -> JobRow:
    desk.store.jobs.insert(NewJob("ada", "k", "compare", "chat", "ask", SPEC, "0" * 64, False))
    row = desk.store.jobs.claim("chat", "w", "cpu")
    assert row is not None
    return row


def say(desk: Desk, job: JobRow, *words: str) -> None:
    desk.store.jobs.append(job.id, 1, [NewEvent("delta", {"column": 0, "text": word}) for word in words])


def test_fifty_readers_of_one_answer_read_it_as_often_as_one(desk: CountingDesk, job: JobRow) -> None:
    async def read(ear: Ear) -> list[str]:
        seen = [Transcript.of(SPEC) for _ in range(50)]
        readers = [tail(ear, job, one) for one in seen]
        await asyncio.gather(*(anext(reader) for reader in readers))
        CountingDesk.reads = 0
        say(desk, job, "more ", "of it")
        await asyncio.gather(*(anext(reader) for reader in readers))
        return [one.answers[0] for one in seen]

    assert asyncio.run(read(Ear(desk))) == ["more of it"] * 50
    assert CountingDesk.reads <= 3


def test_a_reader_that_leaves_does_not_stop_the_others(desk: CountingDesk, job: JobRow) -> None:
    async def read(ear: Ear) -> str:
        seen = Transcript.of(SPEC)
        leaving = asyncio.create_task(ear.hear(job.id))
        staying = asyncio.create_task(anext(tail(ear, job, seen)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        leaving.cancel()
        await staying
        say(desk, job, "all of it")
        desk.store.jobs.succeed(job.id, 1, Success())
        async for _ in tail(ear, job, seen):
            pass
        return seen.answers[0]

    assert asyncio.run(read(Ear(desk))) == "all of it"


def test_a_reader_that_missed_more_than_is_kept_catches_up_from_the_store(
    desk: CountingDesk, job: JobRow
) -> None:
    words = [f"{number} " for number in range(EVENTS_KEPT * 2)]

    async def read(ear: Ear) -> tuple[str, ...]:
        late, early = Transcript.of(SPEC), Transcript.of(SPEC)
        asleep = tail(ear, job, late)
        await anext(asleep)
        awake = tail(ear, job, early)
        for begin in range(0, len(words), 100):
            say(desk, job, *words[begin : begin + 100])
            await anext(awake)
        await anext(asleep)
        return late.answers[0], early.answers[0]

    assert asyncio.run(read(Ear(desk))) == ("".join(words), "".join(words))


def test_a_curve_reads_each_event_once_and_takes_the_last_word_on_a_step(
    desk: CountingDesk, job: JobRow
) -> None:
    def measure(step: int, loss: float) -> dict[str, Any]:
        desk.store.jobs.append(job.id, 1, [NewEvent("metric", {"step": step, "values": {"loss": loss}})])
        return dict(curves.of(desk.store.jobs.get(job.id)))

    curves = Curves(desk)
    assert measure(1, 3.0) == {"loss": [(1, 3.0)]}
    assert measure(2, 2.0) == {"loss": [(1, 3.0), (2, 2.0)]}
    reads = CountingDesk.reads
    assert curves.of(desk.store.jobs.get(job.id)) == {"loss": [(1, 3.0), (2, 2.0)]}
    assert CountingDesk.reads == reads
    assert measure(1, 1.0) == {"loss": [(1, 1.0), (2, 2.0)]}


def test_the_newest_words_leave_out_answers_and_figures(desk: CountingDesk, job: JobRow) -> None:
    for number in range(5):
        say(desk, job, "word ")
        desk.store.jobs.append(job.id, 1, [NewEvent("note", {"text": str(number), "level": "info"})])
    assert [event.payload["text"] for event in desk.store.events.newest(job.id, 3)] == ["2", "3", "4"]
