"""How a page asks and is told: Gradio's two queue routes, answered here, so that nothing asked for is lost.

Gradio 6.31 answers them through some twenty layers, and forgets what a page has asked for since when the
stream before ends later on the server than in the browser: the page's next stream is told that its session
is unknown. Here the newest stream of a session is told everything, and a session is cleared only when no
stream has come back for it. Knows Gradio's queue and no page.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import orjson
from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import CloseStreamMessage, EventMessage, HeartbeatMessage, ProcessCompletedMessage
from pydantic import ValidationError

from lab.ui.guard import Application, Receive, Scope, Send

JOIN, DATA = "/gradio_api/queue/join", "/gradio_api/queue/data"
MOST_BYTES = 8_000_000
HEARTBEAT_SECONDS = 15.0
LINGER_SECONDS = 0.1
"""A stream stays open for what a page asks next, as it does when one event follows another."""
GRACE_SECONDS = 5.0
"""How long a session without a stream is kept."""

_STATUS = {"success": 200, "error": 400, "validator_error": 422, "queue_full": 503}
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Streams:
    """Answers the queue routes of the pages and passes everything else on.

    Args:
        app: what answers everything else.
        blocks: the pages, whose queue it is; they must need no login.
        served: Gradio's application that serves them.
        linger, grace: seconds; see LINGER_SECONDS and GRACE_SECONDS.
    """

    def __init__(
        self, app: Application, blocks: Any, served: Any, linger: float = LINGER_SECONDS,
        grace: float = GRACE_SECONDS,
    ) -> None:  # fmt: skip
        self.app = app
        self.blocks = blocks
        self.served = served
        self.linger = linger
        self.grace = grace
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, float] = {}
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def queue(self) -> Any:
        """Gradio's queue."""
        return self.blocks._queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path == JOIN and scope["method"] == "POST":
            await self._join(scope, receive, send)
        elif path == DATA and scope["method"] == "GET" and (session := self._session(scope)):
            await self._stream(session, receive, send)
        else:
            await self.app(scope, receive, send)

    def _session(self, scope: Scope) -> str:
        """Return the session of a request for a stream; "" where it is not known."""
        named = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        return named if named in self.queue.pending_messages_per_session else ""

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put what a page asks for into the queue, and tell the number it got."""
        queue = self.queue
        if queue.server_app is None:
            queue.set_server_app(self.served)
        request = Request(scope)
        try:
            asked = orjson.loads(await _body(receive))
            body = PredictBodyInternal(**{**asked, "request": request})
        except (ValueError, TypeError, ValidationError):
            await _answer(send, 422, {"detail": "This is not what a page asks for."})
            return
        if not body.session_hash:
            await _answer(send, 400, {"detail": "Session hash not found."})
            return
        if queue.stopped:
            await _answer(send, 503, {"detail": "Queue is stopped."})
            return
        self._asked[body.session_hash] = asyncio.get_running_loop().time()
        is_in, told, state = await queue.push(body=body, request=request, username=None)
        await _answer(send, _STATUS[state], {"event_id": told} if is_in else {"detail": told})

    async def _stream(self, session: str, receive: Receive, send: Send) -> None:
        """Tell a page what its events say, until it has heard all or leaves."""
        messages = self.queue.pending_messages_per_session[session]
        reading = asyncio.create_task(self._read(session, messages, send))
        leaving = asyncio.create_task(_left(receive))
        earlier, self._readers[session] = self._readers.get(session), reading
        if earlier is not None:
            earlier.cancel()
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_heard = reading.done() and not reading.cancelled() and reading.exception() is None
            leaving.cancel()
            reading.cancel()
            if self._readers.get(session) is reading:
                del self._readers[session]
                if not is_heard:
                    self._clear_later(session)
        if not leaving.done():
            with suppress(asyncio.CancelledError):
                await reading
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, session: str, messages: "asyncio.Queue[EventMessage]", send: Send) -> None:
        """Send a session's messages, all that are there in one go, and last that the stream ends."""
        pending = self.queue.pending_event_ids_session
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        while True:
            told = await self._next(messages, HEARTBEAT_SECONDS if pending.get(session) else self.linger)
            if not told and not pending.get(session):
                break
            is_sent = False
            try:
                await _send(send, told or [HeartbeatMessage()])
                is_sent = True
            finally:
                if not is_sent:
                    _put_back(messages, told)
            for message in told:
                if isinstance(message, ProcessCompletedMessage):
                    pending.get(session, set()).discard(message.event_id)
        self._asked.pop(session, None)
        pending.pop(session, None)
        await _send(send, [CloseStreamMessage()])

    async def _next(self, messages: "asyncio.Queue[EventMessage]", seconds: float) -> list[EventMessage]:
        """Return the messages that are there; where there is none, wait for one."""
        told = []
        with suppress(TimeoutError):
            if messages.empty():
                async with asyncio.timeout(seconds):
                    told.append(await messages.get())
        while not messages.empty():
            told.append(messages.get_nowait())
        return told

    def _clear_later(self, session: str) -> None:
        asyncio.get_running_loop().call_later(self.grace, self._clear, session)

    def _clear(self, session: str) -> None:
        """Forget a session and end its events, unless its page is there again."""
        loop = asyncio.get_running_loop()
        if session in self._readers:
            return
        if loop.time() - self._asked.get(session, -self.grace) < self.grace:
            self._clear_later(session)
            return
        self._asked.pop(session, None)
        ending = loop.create_task(self._end(session))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _end(self, session: str) -> None:
        await self.queue.clean_events(session_hash=session)
        self.queue.pending_messages_per_session.pop(session, None)
        self.queue.pending_event_ids_session.pop(session, None)


async def _left(receive: Receive) -> None:
    """Return when the browser has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    parts, size, is_more = [], 0, True
    while is_more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if message["type"] != "http.request" or size > MOST_BYTES:
            raise ValueError(f"The request is cut off or has more than {MOST_BYTES} bytes.")
        parts.append(part)
        is_more = message.get("more_body", False)
    return b"".join(parts)


async def _answer(send: Send, status: int, told: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(told)})


async def _send(send: Send, messages: Iterable[EventMessage]) -> None:
    lines = [b"data: " + orjson.dumps(one.model_dump(), default=str) + b"\n\n" for one in messages]
    await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})


def _put_back(messages: "asyncio.Queue[EventMessage]", told: list[EventMessage]) -> None:
    """Put messages that nobody got before those that came since."""
    since = [messages.get_nowait() for _ in range(messages.qsize())]
    for message in (*told, *since):
        messages.put_nowait(message)
