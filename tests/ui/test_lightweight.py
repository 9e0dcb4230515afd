"""Gradio without what nobody needs: that each of the changes takes hold in the Gradio that is installed."""

import asyncio
import sys
import threading
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from gradio import blocks as gradio_blocks
from gradio.routes import App
from gradio.state_holder import SessionState

from lab.ui import lightweight
from lab.ui.lightweight import (
    SKIPPED,
    LightBlocks,
    LightSessions,
    laid_out_first,
    make_light,
    stay_in_the_loop,
)


@pytest.fixture(scope="module")
def blocks() -> Any:
    with laid_out_first(), LightBlocks(analytics_enabled=False) as app:
        box, other, kept, button = gr.Textbox(), gr.Textbox(), gr.State(1), gr.Button()
        button.click(lambda text: (text + "!", gr.skip(), 2), [box], [box, other, kept], api_name="shout")
    app.queue()
    web = FastAPI()
    gr.mount_gradio_app(web, app, path="", ssr_mode=False)
    make_light(app, next(route.app for route in web.routes if isinstance(getattr(route, "app", None), App)))
    return app


@pytest.fixture
def session(blocks: Any) -> SessionState:
    sessions = LightSessions()
    sessions.set_blocks(blocks)
    return sessions["page"]


def call(blocks: Any, session: SessionState) -> list[Any]:
    told: list[Any] = asyncio.run(blocks.process_api(0, ["Hey"], session))["data"]
    return told


def test_gradio_is_built_as_this_expects(blocks: Any) -> None:
    assert gr.__version__ == "6.31.0", "look through lab/ui/lightweight.py, then change this line"
    assert stay_in_the_loop()


def test_pages_are_described_and_served_once_they_are_laid_out(blocks: Any) -> None:
    assert [one["api_name"] for one in blocks.config["dependencies"]] == ["shout"]
    assert isinstance(blocks.app, App)
    assert gradio_blocks.App is App


def test_the_browser_is_sent_what_changed_and_no_state(blocks: Any, session: SessionState) -> None:
    assert call(blocks, session) == ["Hey!", SKIPPED, SKIPPED]
    (kept,) = session.state_data
    assert session[kept] == 2


def test_values_are_read_and_shown_where_the_event_runs(
    blocks: Any, session: SessionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def preprocess(self: Any, payload: Any) -> Any:
        threads.append(threading.get_ident())
        return payload

    def postprocess(self: Any, value: Any) -> Any:
        threads.append(threading.get_ident())
        return value

    monkeypatch.setattr(gr.Textbox, "preprocess", preprocess)
    monkeypatch.setattr(gr.Textbox, "postprocess", postprocess)
    call(blocks, session)
    assert threads == [threading.get_ident()] * 2


def test_nothing_is_summed_up_after_an_event(blocks: Any) -> None:
    queue = blocks._queue
    queue.events_recorded = 100
    assert queue.compute_analytics_summary([{"function": "shout", "status": "success"}]) == {"functions": {}}
    assert queue.ANALYTICS_MAX_EVENTS == 1
    assert queue.max_thread_count == lightweight.MOST_AT_ONCE


def test_an_open_page_keeps_its_states_and_no_configuration(blocks: Any, session: SessionState) -> None:
    call(blocks, session)
    assert session.config_values == {}
    assert list(session.components) == []
    assert sys.getsizeof(session.blocks_config.blocks) < 100_000


def test_the_page_that_was_used_longest_ago_makes_room(blocks: Any) -> None:
    sessions = LightSessions()
    sessions.set_blocks(blocks)
    sessions.capacity = 2
    for name in ("a", "b", "a", "c"):
        _ = sessions[name]
    assert set(sessions.session_data) == {"a", "c"}
