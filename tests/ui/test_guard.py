"""Which requests reach the lab at all."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lab.ui.guard import Guard, Receive, Scope, Send
from lab.ui.visitors import COOKIE, CookieGiver, Visitors


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


GUARDED = Guard(hello, hosts=("127.0.0.1", "localhost"))


def ask(app: object, method: str = "GET", path: str = "/", **headers: str) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.request(
                method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )

    with ThreadPoolExecutor(1) as thread:  # Playwright's loop may be running in this one
        return thread.submit(asyncio.run, go()).result()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9"])
def test_our_own_names_are_answered(host: str) -> None:
    assert ask(GUARDED, host=host).text == "hello"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_a_strange_host_is_refused_so_that_dns_rebinding_gets_nothing(host: str) -> None:
    assert ask(GUARDED, host=host).status_code == 421


def test_a_public_demo_answers_for_any_name() -> None:
    assert ask(Guard(hello, hosts=()), host="ada-lab.hf.space").text == "hello"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_an_unsafe_request_from_another_site_is_refused(method: str) -> None:
    assert ask(GUARDED, method, origin="https://evil.example").status_code == 403
    assert ask(GUARDED, method, sec_fetch_site="cross-site").status_code == 403
    assert ask(GUARDED, method, origin="http://127.0.0.1:7860").status_code == 200
    assert ask(GUARDED, method).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json", "/gradio_api/token", "/token/", "/docs"])
def test_what_gradio_leaves_open_is_shut(path: str) -> None:
    assert ask(GUARDED, path=path).status_code == 404


def test_every_answer_carries_the_content_policy() -> None:
    headers = ask(GUARDED).headers
    assert "img-src 'self' data: blob:" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_visitor_gets_a_cookie_once_and_is_known_by_it() -> None:
    visitors = Visitors(b"s" * 32)
    app = CookieGiver(hello, visitors)
    given = ask(app).headers["set-cookie"]
    for word in ("HttpOnly", "Secure", "SameSite=None", "Partitioned"):
        assert word in given
    cookie = given.split(";")[0]
    assert "set-cookie" not in ask(app, cookie=cookie).headers
    assert visitors.name_in(cookie)


def test_a_cookie_that_we_did_not_sign_names_nobody() -> None:
    ours, theirs = Visitors(b"s" * 32), Visitors(b"t" * 32)
    assert ours.name_in(f"{COOKIE}={theirs.new_cookie()}") is None
    assert ours.name_in(f"{COOKIE}=ada.0") is None
    assert ours.name_in("nonsense") is None
