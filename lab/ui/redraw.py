"""Drawing only what changed: a page remembers a digest of what it last sent, and skips the rest."""

import hashlib
from collections.abc import Callable
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


def when_page_opens(handler: Callable[..., Any], inputs: Any, outputs: Any, api_name: str) -> None:
    """Call a handler once when somebody opens the page in a browser."""
    app = Context.root_block
    if app is None:
        raise RuntimeError("A page is built inside the shell's gr.Blocks; build_app does that.")
    app.load(handler, inputs, outputs, api_name=api_name, show_progress="hidden")


def every(timer: Any, handler: Callable[..., Any], inputs: Any, outputs: Any, api_name: str) -> None:
    """Call a handler at every tick of its page's timer; the shell stops the timers of hidden pages."""
    timer.tick(handler, inputs, outputs, api_name=api_name, show_progress="hidden", trigger_mode="once")


def _digest(part: Any) -> str:
    text = part.to_json() if hasattr(part, "to_json") else repr(part)
    return hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
