"""Who an anonymous visitor of a hosted demo is: a signed cookie of ours, and the address.

Gradio's session hash is chosen by the client, so it identifies nobody.
"""

import hashlib
import hmac
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from lab.ui.guard import Application, Receive, Scope, Send
from lab.ui.services import NO_COOKIE, Who

COOKIE = "crucible_visitor"


def read_secret(data: Path) -> bytes:
    """Return the lab's signing secret, made at the first call and readable by its owner only."""
    path = data / "secret"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


@dataclass(frozen=True)
class Visitors:
    """Signs and reads the visitors' cookies.

    Args:
        secret: 32 random bytes that the lab keeps.
    """

    secret: bytes

    def new_cookie(self) -> str:
        """Return a fresh, signed cookie value."""
        name = secrets.token_hex(8)
        return f"{name}.{self._sign(name)}"

    def name_in(self, cookie_header: str) -> str | None:
        """Return the visitor's name if the Cookie header holds one that we signed."""
        jar = SimpleCookie()
        try:
            jar.load(cookie_header)
        except CookieError:
            return None
        if COOKIE not in jar:
            return None
        name, _, signature = jar[COOKIE].value.partition(".")
        return name if hmac.compare_digest(signature, self._sign(name)) else None

    def who(self, request: Any) -> Who:
        """Tell from a gradio.Request which visitor is asking, by cookie and address."""
        headers = dict(request.headers) if request is not None else {}
        address = headers.get("x-forwarded-for", getattr(getattr(request, "client", None), "host", "") or "")
        place = hashlib.sha256(self.secret + address.split(",")[0].strip().encode()).hexdigest()[:8]
        name = self.name_in(headers.get("cookie", "")) or NO_COOKIE
        return Who(f"visitor-{name}-{place}", is_local=False, is_visitor=True)

    def _sign(self, name: str) -> str:
        return hmac.new(self.secret, name.encode(), hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class CookieGiver:
    """Gives every visitor without a valid cookie a new one, usable inside the hub's frame."""

    app: Application
    visitors: Visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, adding the cookie to its answer where it is missing."""
        if scope["type"] != "http" or self._known(scope):
            await self.app(scope, receive, send)
            return
        attributes = "Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=None; Partitioned"
        cookie = f"{COOKIE}={self.visitors.new_cookie()}; {attributes}".encode()

        async def send_with_cookie(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie)]
            await send(message)

        await self.app(scope, receive, send_with_cookie)

    def _known(self, scope: Scope) -> bool:
        if scope["path"] != "/":
            return True
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        return self.visitors.name_in("; ".join(cookies)) is not None
