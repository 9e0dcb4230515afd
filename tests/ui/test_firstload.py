"""The page and its scripts from memory: what is kept, what is left out, and for whom it is packed."""

import asyncio
import gzip
from typing import Any

import pytest

from lab.ui.firstload import FirstLoad

PAGE = (
    b'<script>window.gradio_config = {"a": 1};</script>'
    b'<script>window.gradio_api_info = {"named_endpoints": {"/x": {}}};</script><p>'
    + b"lab " * 1000
    + b"</p>"
)


class Maker:
    """Makes a page or a script, and counts how often."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        headers = [(b"content-length", str(len(PAGE)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE[:100], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[100:]})


def get(
    app: FirstLoad, path: str, client: str = "127.0.0.1", host: bytes = b"lab", query: bytes = b""
) -> Any:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(b"host", host), (b"accept-encoding", b"gzip, br")]
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers,
        "client": (client, 1),
    }  # fmt: skip
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    return dict(said[0]["headers"]), b"".join(one["body"] for one in said[1:])


def test_a_page_is_made_once_for_each_address_and_has_no_api_in_it() -> None:
    maker = Maker()
    app = FirstLoad(maker, "run()")
    headers, page = get(app, "/")
    assert get(app, "/", query=b"view=jobs")[1] == page
    assert maker.asked == ["/"]
    assert b'{"a": 1}' in page
    assert b"/x" not in page
    assert b"<script>run()</script>" in page
    assert headers[b"content-length"] == str(len(page)).encode()
    assert b"cache-control" not in headers
    get(app, "/", host=b"elsewhere")
    assert len(maker.asked) == 2


def test_a_script_is_kept_by_the_browser_for_ever() -> None:
    app = FirstLoad(Maker(), "")
    headers, script = get(app, "/assets/a-1234.js")
    assert script == PAGE
    assert b"immutable" in headers[b"cache-control"]


def test_it_is_packed_for_a_browser_that_is_elsewhere() -> None:
    app = FirstLoad(Maker(), "")
    headers, packed = get(app, "/assets/a-1234.js", client="10.0.0.7")
    assert headers[b"content-encoding"] == b"gzip"
    assert gzip.decompress(packed) == PAGE
    assert b"content-encoding" not in get(app, "/assets/a-1234.js")[0]


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [("/assets/none.js", b"", 404), ("/file", b"", 200), ("/", b"deep_link=x", 200)],
)
def test_what_is_not_the_page_and_not_there_is_asked_for_each_time(
    path: str, query: bytes, status: int
) -> None:
    maker = Maker(status)
    app = FirstLoad(maker, "")
    for _ in range(2):
        headers, _ = get(app, path, query=query)
        assert b"cache-control" not in headers
    assert maker.asked == [path, path]


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.ui.firstload.MOST_KEPT_BYTES", 3 * len(PAGE))
    maker = Maker()
    app = FirstLoad(maker, "")
    for number in (1, 2, 3, 4, 1):
        get(app, f"/assets/{number}.js")
    assert len(maker.asked) == 5
