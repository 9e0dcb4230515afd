"""Drawing only what changed: a page remembers a digest of what it last sent, and skips the rest."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context

Seen = tuple[str, ...]
"""What a page last sent, one digest for each of its parts. Kept in a gr.State."""


def only_changed(seen: Seen, *parts: Any) -> tuple[Any, ...]:
    """Return each part, or a skip where it is the same as last time, and then the new digests.

    Args:
        seen: the digests that the last call returned; empty at first.
        parts: strings, figures (anything with `to_json`), gr.update() values or None.
    """
    digests = tuple(_digest(part) for part in parts)
    known = seen if len(seen) == len(parts) else ("",) * len(parts)
    updates = [
        gr.skip() if new == old else part for part, new, old in zip(parts, digests, known, strict=True)
    ]
    return (*updates, digests)


def when_page_opens(
    handler: Callable[..., Any], inputs: Any, outputs: Any, api_name: str, *, tails: bool = False
) -> Any:
    """Call a handler once in every browser, when its page first comes to the front there.

    What follows on the event that this returns runs each time that the page comes to the front.

    Args:
        handler: gets the inputs' values and then the gradio.Request.
        inputs: components, or None.
        outputs: components.
        api_name: the event's name.
        tails: it yields, as long as an answer is written: nobody waits for another's end.
    """
    given, drawn = list(inputs or ()), list(outputs)
    is_open = gr.State(False)
    limits = {"concurrency_limit": None, "concurrency_id": "tail"} if tails else {}
    open_once = _tail_once(handler, len(drawn)) if tails else _once(handler, len(drawn))
    return _front()(
        open_once, [is_open, *given], [*drawn, is_open], api_name=api_name, show_progress="hidden", **limits
    )


def _front() -> Any:
    """Return the event of the page that is being built coming to the front; outside of a page, the load."""
    block, app = Context.block, Context.root_block
    if app is None:
        raise RuntimeError("A page is built inside the shell's gr.Blocks; build_app does that.")
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    return app.load if block is None else block.select


def _once(handler: Callable[..., Any], count: int) -> Callable[..., Any]:
    def open_once(request: gr.Request, is_open: bool, *given: Any) -> tuple[Any, ...]:
        told = (gr.skip() for _ in range(count)) if is_open else handler(*given, request)
        return *told, True

    return open_once


def _tail_once(handler: Callable[..., Any], count: int) -> Callable[..., Any]:
    async def tail_once(request: gr.Request, is_open: bool, *given: Any) -> AsyncIterator[tuple[Any, ...]]:
        if is_open:
            yield *(gr.skip() for _ in range(count)), True
            return
        async for told in handler(*given, request):
            yield *told, True

    return tail_once


@dataclass(frozen=True)
class Part:
    """A part of a page that is drawn again at every tick.

    Attributes:
        draw: gets the inputs' values and then the gradio.Request; gives a value for each output.
        inputs, outputs: components.
    """

    draw: Callable[..., tuple[Any, ...]]
    inputs: Sequence[Any]
    outputs: Sequence[Any]


def every(timer: Any, parts: Sequence[Part], api_name: str) -> None:
    """Draw a page's parts at every tick of its timer, all in one request.

    The shell stops the timers of hidden pages.
    """
    inputs = [component for part in parts for component in part.inputs]
    outputs = [component for part in parts for component in part.outputs]

    def tick(request: gr.Request, *given: Any) -> tuple[Any, ...]:
        values = iter(given)
        return tuple(
            update for part in parts for update in part.draw(*[next(values) for _ in part.inputs], request)
        )

    timer.tick(tick, inputs, outputs, api_name=api_name, show_progress="hidden", trigger_mode="once")


def _digest(part: Any) -> str:
    text = part.to_json() if hasattr(part, "to_json") else repr(part)
    return hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
