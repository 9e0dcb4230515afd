"""What a reader sees of an answer while pages reload, sleep, lag and the web server restarts.

Most of it without a browser: `tail` is what the page draws from, and the answers are said through the
buffer that a job's process writes with.
"""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import FakeShelf
from servers import free_port
from web_process import texts_of, watch, web_server
from worked_lab import Lab

from lab.compare.spec import CompareSpec
from lab.core.events import Event, EventBuffer, NewEvent
from lab.core.spec import spec_sha256
from lab.core.store import NewJob, Store, Success
from lab.core.store.rows import JobRow
from lab.jobs import Desk
from lab.ui import charts, jobview
from lab.ui.tailing import Curves, Ear, catch_up, tail
from lab.ui.transcript import Transcript, as_markdown

pytestmark = pytest.mark.timeout(180)

ASKED = CompareSpec(models=("base", "pirate"), prompt="Tell me of ships.", max_new_tokens=400)
WORDS = (
    "the ",
    "ship ",
    "— 🚢 ",
    "sails ",
    "<b>north</b>, ",
    "and\n",
    "nothing & ",
    "nobody ",
    "stops ",
    "it. ",
)


@dataclass
class Answer:
    """A running comparison that says what the test has it say, in two columns."""

    store: Store
    row: JobRow
    said: list[str] = field(default_factory=lambda: ["", ""])

    def __post_init__(self) -> None:
        self.buffer = EventBuffer(lambda batch: self.store.jobs.append(self.row.id, 1, batch))

    def say(self, count: int, pause: float = 0.0) -> None:
        """Say so many words in each column."""
        for number in range(count):
            for column in range(2):
                word = WORDS[(number * 7 + column) % len(WORDS)]
                self.buffer.emit("delta", column=column, text=word)
                self.said[column] += word
            time.sleep(pause)

    def say_at_once(self, count: int) -> None:
        """Say so many words in each column, each an event of its own, as many small writes would."""
        words = [(column, WORDS[number % len(WORDS)]) for number in range(count) for column in range(2)]
        for begin in range(0, len(words), 1000):
            told = [
                NewEvent("delta", {"column": column, "text": word})
                for column, word in words[begin : begin + 1000]
            ]
            self.store.jobs.append(self.row.id, 1, told)
        for column, word in words:
            self.said[column] += word

    def end(self) -> None:
        self.buffer.close()
        columns = [{"text": text} for text in self.said]
        self.store.jobs.succeed(self.row.id, 1, Success(summary={"columns": columns}))


@dataclass
class Witness(Transcript):
    """A transcript that remembers which events it took in."""

    taken: list[int] = field(default_factory=list)

    def _add(self, event: Event) -> None:
        self.taken.append(event.seq)
        super()._add(event)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    yield store
    store.close()


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, FakeShelf(tmp_path), {})


@pytest.fixture
def ear(desk: Desk) -> Ear:
    return Ear(desk)


@pytest.fixture
def answer(store: Store) -> Answer:
    return Answer(store, running(store, ASKED))


def running(store: Store, spec: CompareSpec) -> JobRow:
    new = NewJob(
        "ada", "key", "compare", "chat", "a question", spec.model_dump(mode="json"), spec_sha256(spec), False
    )
    store.jobs.insert(new)
    row = store.jobs.claim("chat", "w", "cpu")
    assert row is not None
    return row


def blank() -> Witness:
    return Witness.of(ASKED.model_dump())  # type: ignore[return-value]  # of() makes its own class


def meanwhile(answer: Answer, words: int, pause: float) -> threading.Thread:
    """Have the answer said to its end in a thread."""

    def run() -> None:
        answer.say(words, pause)
        answer.end()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


async def read(ear: Ear, row: JobRow, seen: Transcript, pause: float = 0.0) -> list[tuple[str, ...]]:
    """Read to the end, taking one's time after every update; return what each update showed."""
    shown = []
    async for _ in tail(ear, row, seen):
        shown.append(seen.answers)
        await asyncio.sleep(pause)
    return shown


def assert_whole(answer: Answer, seen: Witness, shown: Sequence[tuple[str, ...]] = ()) -> None:
    """Every event once and in order, each update an extension of the one before, the text as it was said."""
    assert seen.taken == list(range(1, answer.store.jobs.get(answer.row.id).last_seq + 1))
    assert list(seen.answers) == answer.said
    for earlier, later in itertools.pairwise(shown):
        assert all(new.startswith(old) for old, new in zip(earlier, later, strict=True))


@pytest.mark.case("M1", "the page is reloaded in the middle of an answer")
def test_a_reload_in_the_middle_of_an_answer_shows_the_same_text(ear: Ear, answer: Answer) -> None:
    async def reload() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        before = blank()
        reader = tail(ear, answer.row, before)
        while len("".join(before.answers)) < 100:
            await anext(reader)
        await reader.aclose()  # type: ignore[attr-defined]
        return before.answers, await read(ear, answer.row, after)

    after = blank()
    speaker = meanwhile(answer, words=80, pause=0.02)
    before, shown = asyncio.run(reload())
    speaker.join()
    assert_whole(answer, after, [before, *shown])
    assert all(len(old) < len(whole) for old, whole in zip(before, answer.said, strict=True))


@pytest.mark.case("M2", "the same answer is open in two tabs, and later in a third")
def test_every_tab_shows_the_whole_answer(ear: Ear, answer: Answer) -> None:
    tabs = [blank() for _ in range(3)]

    async def look() -> list[list[tuple[str, ...]]]:
        third = asyncio.sleep(0.7)

        async def late() -> list[tuple[str, ...]]:
            await third
            return await read(ear, answer.row, tabs[2])

        return await asyncio.gather(*(read(ear, answer.row, tab) for tab in tabs[:2]), late())

    speaker = meanwhile(answer, words=80, pause=0.02)
    for tab, shown in zip(tabs, asyncio.run(look()), strict=True):
        assert_whole(answer, tab, shown)
    speaker.join()


@pytest.mark.case("M3", "the laptop sleeps for ten minutes while the answer goes on")
@pytest.mark.parametrize("has_ended", [False, True])
def test_after_ten_minutes_of_sleep_one_update_shows_all_that_was_said(
    ear: Ear, answer: Answer, has_ended: bool
) -> None:
    async def sleep_and_wake() -> float:
        reader = tail(ear, answer.row, seen)
        await anext(reader)
        answer.say_at_once(8 * 600)  # eight updates a second in both columns
        if has_ended:
            answer.end()
        woken = time.monotonic()
        await anext(reader)
        assert list(seen.answers) == answer.said
        took = time.monotonic() - woken
        if not has_ended:
            answer.end()
        assert [now.state async for now in reader] == ([] if has_ended else ["succeeded"])
        return took

    seen = blank()
    assert asyncio.run(sleep_and_wake()) < 20
    assert_whole(answer, seen)


@pytest.mark.case("M5", "a reader takes most of a second for every update")
def test_a_slow_reader_gets_everything_and_the_job_does_not_wait_for_it(
    desk: Desk, ear: Ear, answer: Answer
) -> None:
    seen = blank()
    begun = time.monotonic()
    speaker = meanwhile(answer, words=100, pause=0.02)
    shown = asyncio.run(read(ear, answer.row, seen, pause=0.7))
    speaker.join()
    assert_whole(answer, seen, shown)
    row = answer.store.jobs.get(answer.row.id)
    assert row.finished is not None
    assert row.started is not None
    assert len(shown) <= (time.monotonic() - begun) / 0.7 + 2
    written = {event.time for event in desk.follow(row.id, 0) if event.kind == "delta"}
    assert len(written) > len(shown), "the job wrote at its own pace"


@pytest.mark.slow
@pytest.mark.case("M6", "one job tells 100,000 events")
def test_an_answer_of_a_hundred_thousand_events_is_read_whole_in_pages(
    desk: Desk, ear: Ear, answer: Answer
) -> None:
    answer.say_at_once(50_000)
    answer.end()
    row = answer.store.jobs.get(answer.row.id)
    assert row.last_seq > 100_000
    sizes = []
    seen, seq = blank(), 0
    while page := desk.follow(row.id, seq):
        sizes.append(len(page))
        seq = page[-1].seq
    assert max(sizes) <= 5000
    begun = time.monotonic()
    shown = asyncio.run(read(ear, answer.row, seen))
    assert time.monotonic() - begun < 60
    assert len(shown) == 1
    assert_whole(answer, seen)
    newest = answer.store.events.newest(row.id, jobview.MOST_EVENTS)
    assert [event.payload.get("state") for event in newest] == ["queued", "running", "succeeded"]


@pytest.mark.slow
@pytest.mark.case("M6", "one job tells 100,000 events")
def test_the_curve_of_a_hundred_thousand_steps_is_drawn_whole_and_read_once(
    desk: Desk, answer: Answer
) -> None:
    for begin in range(0, 100_000, 1000):
        told = [
            NewEvent("metric", {"step": step, "values": {"loss": 1.0 / (step + 1)}})
            for step in range(begin, begin + 1000)
        ]
        answer.store.jobs.append(answer.row.id, 1, told)
    curves, row = Curves(desk), answer.store.jobs.get(answer.row.id)
    begun = time.monotonic()
    lines = curves.of(row)
    first = time.monotonic() - begun
    assert first < 60
    assert lines["loss"][-1] == (99_999, 1.0 / 100_000)
    figure = charts.loss_chart(lines)
    assert max(len(line.x) for line in figure.data) <= charts.MOST_POINTS

    answer.store.jobs.append(
        answer.row.id, 1, [NewEvent("metric", {"step": 100_000, "values": {"loss": 0.5}})]
    )
    begun = time.monotonic()
    assert curves.of(answer.store.jobs.get(row.id))["loss"][-1] == (100_000, 0.5)
    assert time.monotonic() - begun < first / 2 + 0.5


@pytest.mark.case("M7", "a hundred readers reconnect at random places of a running answer")
def test_a_reader_that_reconnects_anywhere_has_no_gap_and_no_repeat(desk: Desk, answer: Answer) -> None:
    chance = random.Random(7)
    speaker = meanwhile(answer, words=100, pause=0.02)
    readers = [blank() for _ in range(100)]
    kept: list[list[Event]] = [[] for _ in readers]
    while True:
        row = desk.store.jobs.get(answer.row.id)
        for number, seen in enumerate(readers):
            if chance.random() < 0.7 and not row.is_terminal:
                continue  # this one is away
            cut = chance.randint(0, seen.seq)  # what it still has: it reconnects with this number
            again = blank()
            again.add(kept[number][:cut])
            overlap = chance.randint(0, cut)  # and what it has already may come a second time
            again.add(desk.follow(row.id, overlap))
            catch_up(desk, row, again)
            readers[number], kept[number] = again, desk.follow(row.id, 0)[: again.seq]
        if row.is_terminal:
            break
    speaker.join()
    for seen in readers:
        assert_whole(answer, seen)


@pytest.mark.slow
@pytest.mark.case("M4", "the web server is killed in the middle of an answer and started again")
def test_a_killed_web_server_leaves_the_answer_alone_and_the_next_one_shows_all_of_it(stocked: Lab) -> None:
    port = free_port()
    spec = ASKED.model_copy(update={"temperature": 1.0, "seed": 5})
    with web_server(stocked.settings.data, port) as web:
        stocked.start_real("chat")
        desk = Desk(stocked.store, FakeShelf(stocked.settings.models), stocked.bells)
        job = desk.submit(spec, "local").id
        begun = asyncio.run(asyncio.wait_for(watch(port, job, kill=web), 120))
    assert begun, "the reader had seen a part of the answer"
    with web_server(stocked.settings.data, port):
        shown = asyncio.run(asyncio.wait_for(watch(port, job), 120))
    row = stocked.row(job)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 1, 0), row.error_text
    stocked.check_events(job)
    whole = [column["text"] for column in row.result["columns"]]
    assert all(text.startswith(part) for text, part in zip(whole, texts_of(begun), strict=True))
    assert all(as_markdown(text) in shown for text in whole)


@pytest.mark.slow
@pytest.mark.case("M8", "the reader's text is the text in the result and in the events")
def test_what_a_reader_put_together_is_what_was_stored(stocked: Lab) -> None:
    stocked.start_real("chat")
    spec = ASKED.model_copy(update={"temperature": 1.0, "seed": 5, "max_new_tokens": 120})
    job = stocked.submit_spec("compare", spec, "chat")
    desk = Desk(stocked.store, FakeShelf(stocked.settings.models), {})
    seen = blank()
    shown = asyncio.run(asyncio.wait_for(read(Ear(desk), stocked.row(job), seen), 120))
    row = stocked.row(job)
    assert row.state == "succeeded", row.error_text
    events = stocked.store.events.after(job, 0)
    for place, column in enumerate(row.result["columns"]):
        joined = "".join(
            event.payload["text"]
            for event in events
            if event.kind == "delta" and event.payload["column"] == place
        )
        assert seen.answers[place] == column["text"] == joined != ""
    assert seen.taken == list(range(1, row.last_seq + 1))
    assert len(shown) > 2
