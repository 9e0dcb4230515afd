"""Gradio for pages that many people watch: what it does for each event and each session, made small.

Gradio 6.31 keeps figures on its last 10,000 events for a monitoring page and sums them up with pandas after
every event, goes to another thread and back for every value that a component reads or shows, makes a new
component for every output that a handler skips, and keeps the configuration of the whole page once more for
every session. The lab has no use for any of it. Where a later Gradio is built otherwise, it runs as it comes:
nothing here is needed for a page to work, but what `LightBlocks` sends of a gr.State.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import gradio as gr
from gradio import blocks as gradio_blocks
from gradio import queueing, utils
from gradio.components import Component
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder

SKIPPED: dict[str, Any] = {"__type__": "update"}
"""What `gradio.skip()` returns: the browser leaves the component as it is."""

MOST_SESSIONS = 1000
MOST_AT_ONCE = 512
"""Events that run at the same time; one that follows an answer runs as long as the answer is written."""

POLL_SECONDS = 0.004
"""How often Gradio looks whether an event waits; its own millisecond keeps an idle page at 4 % of a core."""

_AT_ONCE = ("preprocess", "postprocess", "compute_analytics_summary")
_LONG = (gr.Plot, gr.UploadButton)
"""A figure is written as JSON and a file is read in another thread still: that takes milliseconds."""


class LightBlocks(gr.Blocks):
    """gr.Blocks that pay only for what changes, and keep every gr.State to the server."""

    def get_config_file(self) -> Any:
        """Describe the pages, once they are all there."""
        return {} if _is_laying_out() else super().get_config_file()

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Postprocess what a handler returned, leaving out what it skipped.

        Gradio sends null for a gr.State, and the browser takes that for its new value.
        """
        outputs = block_fn.outputs
        values = [predictions] if len(outputs) == 1 else predictions
        if block_fn.batch or not isinstance(values, list | tuple) or len(values) != len(outputs):
            return list(await super().postprocess_data(block_fn, predictions, state))
        told = [place for place, value in enumerate(values) if not _is_skip(value)]
        sent = [dict(SKIPPED) for _ in outputs]
        if told:
            part = copy.copy(block_fn)
            part.outputs = [outputs[place] for place in told]
            given = values[told[0]] if len(told) == 1 else [values[place] for place in told]
            made = await super().postprocess_data(part, given, state)
            for place, value in zip(told, made, strict=True):
                sent[place] = dict(SKIPPED) if outputs[place].stateful else value
        return sent


class LightSession(SessionState):
    """What is kept of one open page: its states and the components that were changed."""

    def __init__(self, blocks: Any) -> None:
        # Gradio would keep the configuration of each of these blocks.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))

    def __setitem__(self, key: int, value: Any) -> None:
        """Keep a state, or a component that a handler changed."""
        if key in self.state_data or isinstance(self.blocks_config.blocks.get(key), gr.State):
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        """Keep no configuration: only links to a page's whole state would need it."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Keep no configuration."""


class LightSessions(StateHolder):
    """The open pages' sessions; the one that was used longest ago makes room."""

    def __getitem__(self, session_id: str) -> SessionState:
        """Return a session, new where it is not known."""
        if session_id not in self.session_data:
            self.session_data[session_id] = LightSession(self.blocks)
        return super().__getitem__(session_id)

    def delete_all_expired_state(self) -> None:
        """Look for nothing: no gr.State of the lab has a time to live."""


@contextmanager
def laid_out_first() -> Iterator[None]:
    """Lay pages out without serving them: Gradio would make an application for them three times over."""
    vars(gradio_blocks)["App"] = _NoApp
    try:
        yield
    finally:
        vars(gradio_blocks)["App"] = App


class _NoApp:
    @staticmethod
    def create_app(*_: Any, **__: Any) -> None:
        """Make no application yet."""


def _is_laying_out() -> bool:
    return vars(gradio_blocks).get("App") is _NoApp


def make_light(blocks: gr.Blocks, app: App) -> None:
    """Take from a mounted application what it does for nobody.

    Args:
        blocks: the pages, with their queue.
        app: Gradio's application that serves them.
    """
    sessions = LightSessions()
    blocks.state_session_capacity = MOST_SESSIONS
    sessions.set_blocks(blocks)
    app.state_holder = sessions
    blocks.app = app
    queue = blocks._queue
    queue.ANALYTICS_MAX_EVENTS = 1
    queue.ANAYLTICS_CACHE_FREQUENCY = 1 << 62  # Gradio's own spelling
    queue.max_thread_count = MOST_AT_ONCE
    queue.sleep_when_free = POLL_SECONDS
    stay_in_the_loop()
    if find_spec("matplotlib") is None:  # Gradio would look for it at every event
        vars(utils)["MatplotlibBackendMananger"] = nullcontext


def stay_in_the_loop() -> bool:
    """Let Gradio call its own short functions where it is, and only handlers in another thread.

    Returns:
        Whether both of its modules are built as this expects, and so it holds.
    """
    is_known = _calls(queueing, "await run_sync(") and _calls(
        gradio_blocks, "await anyio.to_thread.run_sync("
    )
    if is_known:
        vars(queueing)["run_sync"] = _run
        vars(gradio_blocks)["anyio"] = SimpleNamespace(to_thread=SimpleNamespace(run_sync=_run))
    return is_known


def _calls(module: ModuleType, words: str) -> bool:
    known: Sequence[str] = ("run_sync", "anyio")
    return words in inspect.getsource(module) and any(hasattr(module, name) for name in known)


async def _run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    owner = getattr(function, "__self__", None)
    is_short = isinstance(owner, Component | queueing.Queue) and not isinstance(owner, _LONG)
    if is_short and function.__name__ in _AT_ONCE:
        return function(*arguments)
    return await anyio.to_thread.run_sync(function, *arguments, **options)


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value == SKIPPED
