"""What a page has asked for reaches it, however its streams and the server's take turns."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.queueing import Queue
from gradio.server_messages import ProcessCompletedMessage, ProcessStartsMessage

from lab.ui.streams import DATA, JOIN, Streams


class Browser:
    """A page's connection to the server: what it was told, and when it leaves."""

    def __init__(self, streams: Streams, session: str = "page") -> None:
        self.left = asyncio.Event()
        self.told: list[dict[str, Any]] = []
        self.status = 0
        self.heard = asyncio.Event()
        scope = {
            "type": "http", "method": "GET", "path": DATA, "headers": [],
            "query_string": f"session_hash={session}".encode(),
        }  # fmt: skip
        self.task = asyncio.create_task(streams(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        for part in message.get("body", b"").split(b"\n\n"):
            if part:
                self.told.append(json.loads(part.removeprefix(b"data: ")))
                self.heard.set()

    @property
    def words(self) -> list[str]:
        return [one["msg"] for one in self.told]


def queue_of() -> Queue:
    return Queue(True, 4, 1.0, None, SimpleNamespace())  # type: ignore[arg-type]


def ask(queue: Queue, event: str, session: str = "page") -> None:
    """Do what Gradio's `push` does when a page asks for something."""
    if session not in queue.pending_messages_per_session:
        queue.pending_messages_per_session[session] = asyncio.Queue()
    queue.pending_event_ids_session.setdefault(session, set()).add(event)


def say(queue: Queue, message: Any, event: str, session: str = "page") -> None:
    message.event_id = event
    queue.pending_messages_per_session[session].put_nowait(message)


def done() -> ProcessCompletedMessage:
    return ProcessCompletedMessage(output={"data": []}, success=True)


def run(story: Callable[[Queue, Streams], Awaitable[None]], **seconds: float) -> None:
    async def tell() -> None:
        queue = queue_of()
        streams = Streams(_nobody, SimpleNamespace(_queue=queue), None, **{"linger": 0.0, **seconds})
        await story(queue, streams)

    asyncio.run(tell())


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})


def test_a_stream_ends_when_all_that_was_asked_is_answered() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        ask(queue, "one")
        browser = Browser(streams)
        say(queue, ProcessStartsMessage(), "one")
        say(queue, done(), "one")
        await browser.task
        assert browser.words == ["process_starts", "process_completed", "close_stream"]

    run(story)


def test_what_is_asked_while_the_last_stream_ends_is_told_to_the_next() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        ask(queue, "one")
        first = Browser(streams)
        say(queue, done(), "one")
        ask(queue, "two")
        await first.heard.wait()
        first.left.set()  # at the last word that it waited for, before the server has ended the stream
        await first.task
        say(queue, done(), "two")
        second = Browser(streams)
        await second.task
        assert second.words == ["process_completed", "close_stream"]

    run(story)


def test_the_newest_stream_of_a_page_is_told_everything() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        ask(queue, "one")
        first = Browser(streams)
        await asyncio.sleep(0)
        second = Browser(streams)
        await first.task
        say(queue, done(), "one")
        await second.task
        assert [first.words, second.words] == [[], ["process_completed", "close_stream"]]

    run(story)


def test_a_message_that_nobody_got_is_told_to_the_next_stream_before_later_ones() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        ask(queue, "one")
        first = Browser(streams)
        first._send = _never  # type: ignore[method-assign]
        first.task.cancel()
        scope = {
            "type": "http",
            "method": "GET",
            "path": DATA,
            "headers": [],
            "query_string": b"session_hash=page",
        }
        stuck = asyncio.create_task(streams(scope, first._receive, _starts_then_never()))
        say(queue, ProcessStartsMessage(), "one")
        while not queue.pending_messages_per_session["page"].empty():
            await asyncio.sleep(0)
        say(queue, done(), "one")
        first.left.set()
        await stuck
        second = Browser(streams)
        await second.task
        assert second.words == ["process_starts", "process_completed", "close_stream"]

    run(story, grace=10.0)


def test_a_page_that_does_not_come_back_is_cleared_and_its_events_end() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        ask(queue, "one")
        event = SimpleNamespace(session_hash="page", _id="one", alive=True)
        queue.active_jobs = [[event]]  # type: ignore[list-item]
        browser = Browser(streams)
        await asyncio.sleep(0)
        browser.left.set()
        await browser.task
        while "page" in queue.pending_messages_per_session:
            await asyncio.sleep(0)
        assert not event.alive
        assert "page" not in queue.pending_event_ids_session

    run(story, grace=0.0)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 422), (b"[]", 422), (b'{"data": [], "fn_index": 0}', 400), (b"x" * 9_000_000, 422)],
    ids=["broken", "no object", "no session", "too long"],
)
def test_what_no_page_asks_is_refused(body: bytes, status: int) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        said.append(message)

    async def story(queue: Queue, streams: Streams) -> None:
        queue.server_app = SimpleNamespace()  # type: ignore[assignment]
        scope = {"type": "http", "method": "POST", "path": JOIN, "headers": [], "query_string": b""}
        await streams(scope, receive, send)

    run(story)
    assert said[0]["status"] == status
    assert "detail" in json.loads(said[1]["body"])


def test_a_session_that_is_not_known_is_left_to_gradio() -> None:
    async def story(queue: Queue, streams: Streams) -> None:
        browser = Browser(streams, "nobody")
        await browser.task
        assert browser.status == 404

    run(story)


async def _never(message: Any) -> None:
    await asyncio.Event().wait()


def _starts_then_never() -> Callable[[Any], Awaitable[None]]:
    async def send(message: Any) -> None:
        if message["type"] != "http.response.start" and message.get("body"):
            await _never(message)

    return send
