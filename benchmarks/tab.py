"""A browser's tab without the browser: calls a page's handlers and reads what they stream."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from gradio_client.utils import apply_diff

PATIENCE = httpx.Timeout(60)  # a stream says at least every 15 seconds that it is there


class PageError(RuntimeError):
    """The page answered with an error."""


@dataclass(frozen=True)
class Site:
    """What a lab's page consists of, as its config tells.

    Attributes:
        url: where it is.
        handlers: by name, a handler's number and its components' first values.
        labels: by name, the labels of its components.
    """

    url: str
    handlers: Mapping[str, tuple[int, Sequence[Any]]]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    async def of(cls, http: httpx.AsyncClient, url: str) -> "Site":
        """Read a lab's config."""
        config = (await http.get(f"{url}/config")).raise_for_status().json()
        values = {one["id"]: one.get("props", {}).get("value") for one in config["components"]}
        labels = {one["id"]: one.get("props", {}).get("label") for one in config["components"]}
        return cls(
            url,
            {
                one["api_name"]: (one["id"], [values.get(key) for key in one["inputs"]])
                for one in config["dependencies"]
                if one["api_name"]
            },
            {
                one["api_name"]: [labels.get(key) or "" for key in one["inputs"]]
                for one in config["dependencies"]
            },
        )

    def place(self, name: str, label: str) -> int:
        """Return where a component stands among a handler's inputs."""
        return self.labels[name].index(label)


async def call(
    http: httpx.AsyncClient,
    site: Site,
    name: str,
    data: Sequence[Any] | None = None,
    session: str = "",
    **address: str,
) -> AsyncIterator[list[Any]]:
    """Call a handler and yield its outputs, whole, at every update.

    Args:
        http: the connections to use.
        site: the lab's page.
        name: the handler's api_name.
        data: what its inputs hold; None for what they hold when the page opens.
        session: whose; "" for a new one. A session makes one call at a time.
        address: what stands behind the question mark in the page's address.

    Raises:
        PageError: the page answered with an error.
        httpx.HTTPError: the server went away.
    """
    number, first = site.handlers[name]
    session = session or uuid.uuid4().hex
    asked = {"data": list(first if data is None else data), "fn_index": number, "session_hash": session}
    joined = await http.post(f"{site.url}/gradio_api/queue/join", params=address, json=asked)
    if joined.is_error:
        raise PageError(f"{name}: {joined.status_code} {joined.text[:200]}")
    outputs: list[Any] = []
    stream = http.stream(
        "GET", f"{site.url}/gradio_api/queue/data", params={"session_hash": session}, timeout=PATIENCE
    )
    async with stream as told:
        async for line in told.aiter_lines():
            if not line.startswith("data: "):
                continue
            message = json.loads(line.removeprefix("data: "))
            if message["msg"] in ("process_generating", "process_completed"):
                if not message.get("success", True):
                    raise PageError(f"{name}: {message.get('output')}")
                outputs = _updated(outputs, message)
                yield outputs
            if message["msg"] == "unexpected_error":
                raise PageError(f"{name}: {message.get('message')}")
            if message["msg"] == "close_stream":  # not before: the session's next call would wait for ever
                return


def _updated(before: list[Any], message: Mapping[str, Any]) -> list[Any]:
    """Return all outputs: the first update has them whole, later ones as differences."""
    now = message["output"]["data"]
    if message["msg"] == "process_completed":
        return [old if is_skip(new) else new for old, new in zip(before or now, now, strict=True)]
    if not before:
        return list(now)
    return [apply_diff(old, change) for old, change in zip(before, now, strict=True)]


def is_skip(value: Any) -> bool:
    """Tell whether an output says only that nothing changed."""
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1
