"""What a browser loads before it shows anything: the page and its scripts, made once and kept.

Gradio 6.31 makes the same page anew for every visitor, with a description of its API that nobody reads there,
and compresses each script again for each browser. Where a later Gradio writes the page otherwise, it is kept
as it comes.
"""

import gzip
import re
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from lab.ui.guard import Application, Receive, Scope, Send

MOST_KEPT_BYTES = 32_000_000
LEAST_PACKED_BYTES = 1000
FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
"""The names of scripts hold a digest of what is in them."""

_ORIGIN = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix")
"""What the page's own address is made of."""
_API = re.compile(rb"window\.gradio_api_info = \{.*?\};</script>", re.DOTALL)
_NO_API = rb'window.gradio_api_info = {"named_endpoints":{},"unnamed_endpoints":{}};</script>'


@dataclass(frozen=True)
class Kept:
    """One answer.

    Attributes:
        start: the message that begins it.
        body: all of it.
    """

    start: MutableMapping[str, Any]
    body: bytes


@dataclass
class FirstLoad:
    """Answers for the page and its scripts from memory, and passes everything else on.

    Args:
        app: what makes them.
        script: JavaScript that runs before the page is built.
    """

    app: Application
    script: str
    _kept: OrderedDict[tuple[Any, ...], Kept] = field(default_factory=OrderedDict)
    _bytes: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = _key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        kept = self._kept.get(key)
        if kept is None:
            kept = await self._make(scope, receive)
            if kept.start["status"] == 200:
                self._keep(key, kept)
        kept = self._packed_for(scope, key, kept)
        await send({**kept.start, "headers": list(kept.start["headers"])})
        await send({"type": "http.response.body", "body": kept.body})

    def _packed_for(self, scope: Scope, key: tuple[Any, ...], kept: Kept) -> Kept:
        """Return an answer compressed for a browser that is elsewhere; packing is done once."""
        if not _is_far(scope) or len(kept.body) < LEAST_PACKED_BYTES or kept.start["status"] != 200:
            return kept
        known = self._kept.get((*key, "gzip"))
        if known is None:
            body = gzip.compress(kept.body, 6)
            headers = [one for one in kept.start["headers"] if one[0] != b"content-length"]
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
            headers += [(b"content-length", str(len(body)).encode())]
            known = Kept({**kept.start, "headers": headers}, body)
            self._keep((*key, "gzip"), known)
        return known

    async def _make(self, scope: Scope, receive: Receive) -> Kept:
        parts: list[MutableMapping[str, Any]] = []

        async def take(message: MutableMapping[str, Any]) -> None:
            parts.append(message)

        plain = [one for one in scope["headers"] if one[0] not in _NOT_PASSED_ON]
        await self.app({**scope, "headers": plain}, receive, take)
        made = Kept(parts[0], b"".join(part.get("body", b"") for part in parts[1:]))
        is_page = scope["path"] == "/"
        body = self._lean(made.body) if is_page else made.body
        headers = [one for one in made.start["headers"] if one[0] != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode())]
        headers += [] if is_page or made.start["status"] != 200 else [FOR_EVER]
        return replace(made, start={**made.start, "headers": headers}, body=body)

    def _lean(self, page: bytes) -> bytes:
        """Leave the API's description out of a page, and let the script run where it stood."""
        return _API.sub(lambda _: _NO_API + b"<script>" + self.script.encode() + b"</script>", page, count=1)

    def _keep(self, key: tuple[Any, ...], kept: Kept) -> None:
        self._kept[key] = kept
        self._bytes += len(kept.body)
        while self._bytes > MOST_KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.body)


def _is_far(scope: Scope) -> bool:
    """Whether a browser is on another machine and takes what is compressed."""
    accepts = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    client = scope.get("client") or ("127.0.0.1", 0)
    return b"gzip" in accepts and client[0] not in ("127.0.0.1", "::1")


_NOT_PASSED_ON = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")


def _key(scope: Scope) -> tuple[Any, ...] | None:
    """Return what an answer depends on, or None for one that isn't kept."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    path = scope["path"]
    if path.startswith("/assets/"):
        return (path,)
    if path != "/" or b"deep_link" in scope["query_string"]:
        return None
    return ("/", scope.get("scheme"), *(one for one in scope["headers"] if one[0] in _ORIGIN))
