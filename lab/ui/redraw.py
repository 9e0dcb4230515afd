"""Drawing only what changed: a page remembers a digest of what it last sent, and skips the rest."""

import hashlib
from collections.abc import Callable, Sequence
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
    """Call a handler once when somebody opens the page in a browser; return the event, for what follows.

    A handler that `tails` an answer runs as long as the answer is written: nobody waits for another's end.
    """
    app = Context.root_block
    if app is None:
        raise RuntimeError("A page is built inside the shell's gr.Blocks; build_app does that.")
    limits = {"concurrency_limit": None, "concurrency_id": "tail"} if tails else {}
    return app.load(handler, inputs, outputs, api_name=api_name, show_progress="hidden", **limits)


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
