"""What stands before every request: which hosts and origins may talk to the lab, and what is shut.

Gradio guards none of this when it is mounted (see docs/security.md), so a small ASGI layer does.
Knows no page and no user.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SHUT_PATHS = ("/openapi.json", "/gradio_api/openapi.json", "/docs", "/redoc", "/token", "/gradio_api/token")

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "worker-src 'self' blob:",
        "connect-src 'self' ws: wss:",
        "object-src 'none'",
        "base-uri 'self'",
    )
)
"""Text of models may hold links and images: none of them is fetched from elsewhere.
Inline scripts and eval are Gradio's and Plotly's own."""


@dataclass(frozen=True)
class Guard:
    """Refuses strange hosts (DNS rebinding), strange origins (cross-site requests) and shut paths.

    Args:
        app: what it guards.
        hosts: host names that may be asked for, without port; none means any, for a public demo,
            where a rebound name gets nothing that its visitor could not ask for anyway.
        frame_ancestors: who may show the lab in a frame, in the words of a content security policy.
    """

    app: Application
    hosts: tuple[str, ...]
    frame_ancestors: str = "'none'"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            await _answer(send, *refusal)
            return
        await self.app(scope, receive, self._with_policy(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, f"This lab does not answer for the host {host[:80]!r}."
        if scope["path"].rstrip("/") in SHUT_PATHS:
            return 404, "Not found."
        if scope.get("method", "GET") in SAFE_METHODS and scope["type"] == "http":
            return None
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            return 403, "A request from another site is refused."
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "A request from another site is refused."
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return not self.hosts or name in self.hosts

    def _with_policy(self, send: Send) -> Send:
        policy = f"{POLICY}; frame-ancestors {self.frame_ancestors}"

        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = (
                    (b"content-security-policy", policy.encode()),
                    (b"x-content-type-options", b"nosniff"),
                )
                message["headers"] = [
                    *message.get("headers", ()),
                    *added,
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        return send_with_policy


async def _answer(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
