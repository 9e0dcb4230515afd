"""A page opens once, when it comes to the front, and what somebody typed stays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import pytest

from lab.ui.lightweight import LightBlocks
from lab.ui.offers import Offer, offered
from lab.ui.redraw import when_page_opens


@pytest.fixture
def opened() -> list[str]:
    return []


@pytest.fixture
def blocks(opened: list[str]) -> Any:
    def open_page(request: gr.Request) -> tuple[str]:
        opened.append("page")
        return ("here",)

    async def tail(request: gr.Request) -> AsyncIterator[tuple[str]]:
        opened.append("tail")
        yield ("first",)
        yield ("last",)

    with LightBlocks(analytics_enabled=False) as app:
        bar = gr.HTML()
        when_page_opens(open_page, None, [bar], "bar_open")
        with gr.Tabs(), gr.Tab("A page"), gr.Row():
            text, answer = gr.Textbox(), gr.HTML()
            when_page_opens(open_page, None, [text], "page_open")
            when_page_opens(tail, None, [answer], "page_tail", tails=True)
    return app


def events(blocks: Any) -> dict[str, str]:
    return {fn.api_name: fn.targets[0][1] for fn in blocks.fns.values()}


def test_a_page_opens_when_it_comes_to_the_front_and_the_frame_at_once(blocks: Any) -> None:
    assert events(blocks) == {"bar_open": "load", "page_open": "select", "page_tail": "select"}


@pytest.mark.parametrize("name", ["page_open", "page_tail"])
def test_a_page_opens_once_however_often_it_comes_to_the_front(
    blocks: Any, opened: list[str], name: str
) -> None:
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == name)

    async def come(is_open: bool) -> list[Any]:
        told = fn.fn(None, is_open)
        return [one async for one in told] if name == "page_tail" else [told]

    first = asyncio.run(come(False))
    assert len(opened) == 1
    assert first[-1][-1] is True
    assert asyncio.run(come(True)) == [(gr.skip(), True)]
    assert len(opened) == 1


def test_a_proposal_goes_to_a_part_of_its_own_and_the_browser_takes_it() -> None:
    with LightBlocks(analytics_enabled=False) as app:
        field, button = gr.Textbox(), gr.Button()
        offer = Offer(field)
        offer.after(button.click(lambda: offered("merged"), None, [offer.component]))
    asked, taken = app.fns.values()
    assert [one for one in asked.outputs if one is field] == []
    assert taken.fn is None
    assert taken.outputs == [field]
    assert offered("b", "a") == {"text": "b", "over": ["a"]}
    assert offered(None) is None
