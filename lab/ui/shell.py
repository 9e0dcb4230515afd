"""The frame around the pages: the bar, the tabs, and what pauses while nobody looks.

Adding a page is one line in PAGES.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.routes import App

from lab import house
from lab.compare.spec import CompareSpec
from lab.core.spec import JobSpec
from lab.core.store.rows import LIVE
from lab.merge.spec import MergeSpec
from lab.tune.spec import TuneSpec
from lab.ui import theme, widgets
from lab.ui.firstload import FirstLoad
from lab.ui.lightweight import LightBlocks, laid_out_first, make_light
from lab.ui.pages import compare, finetune, jobs, merge, models
from lab.ui.redraw import Part, Seen, every, only_changed, when_page_opens
from lab.ui.services import Services
from lab.ui.streams import Streams
from lab.ui.words import listed

PAGES: tuple[tuple[str, str, Callable[[Services], None]], ...] = (
    ("models", "Models", models.build),
    ("merge", "Merge", merge.build),
    ("finetune", "Fine-tune", finetune.build),
    ("compare", "Compare", compare.build),
    ("jobs", "Jobs", jobs.build),
)
"""Name in the address, title of the tab, and builder of every page, in the order of the tabs."""

_MAKES: dict[str, type[JobSpec]] = {"merge": MergeSpec, "finetune": TuneSpec, "compare": CompareSpec}
"""What a page makes, for the sentence on a demo's limits."""


def mount(web: FastAPI, services: Services) -> None:
    """Mount the pages in a web application, with nothing of Gradio's own open beside them."""
    with laid_out_first():
        blocks = build_app(services)
        blocks.queue(api_open=False, max_size=256, default_concurrency_limit=20)
    gr.mount_gradio_app(
        web,
        blocks,
        path="",
        allowed_paths=[],
        blocked_paths=[str(services.settings.data)],
        max_file_size="1mb" if services.settings.space else "200mb",
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        **theme.mount_options(),
    )
    served = next(app for route in web.routes if isinstance(app := getattr(route, "app", None), App))
    make_light(blocks, served)
    web.add_middleware(Streams, blocks=blocks, served=served)
    web.add_middleware(FirstLoad, script=(theme.STATIC / "front.js").read_text(encoding="utf-8"))


def build_app(services: Services) -> Any:
    """Arrange the pages and return the application to mount."""
    with LightBlocks(title="Crucible", analytics_enabled=False, fill_width=True) as app:
        bar = _Bar(services)
        shown = widgets.picture(bar.html((), None)[0], elem_id="lab-bar")
        seen = gr.State(())
        when_page_opens(bar.html, [seen], [shown, seen], "bar_open")
        every(gr.Timer(2), [Part(bar.html, [seen], [shown, seen])], "bar")
        with gr.Tabs(elem_id="lab-pages", overflow_behavior="wrap", selected=PAGES[0][0]):
            pages = [_build_page(app, services, *page) for page in PAGES]
        _pause_hidden_pages(pages)
    return app


def _build_page(
    app: Any, services: Services, name: str, title: str, build: Callable[[Services], None]
) -> tuple[Any, list[Any]]:
    """Build one page in its tab; return the tab and the page's timers."""
    before = set(app.blocks)
    with gr.Tab(title, id=name) as tab:
        build(services)
        if services.is_demo:
            widgets.picture(widgets.note(house.sentence(_MAKES.get(name))), elem_classes="lab-demo")
    return tab, [
        block for key, block in app.blocks.items() if key not in before and isinstance(block, gr.Timer)
    ]


def _pause_hidden_pages(pages: list[tuple[Any, list[Any]]]) -> None:
    """Let only the page in front ask the server for news; the browser sees to it by itself."""
    timers = [timer for _, group in pages for timer in group]
    for timer in timers:
        timer.active = False
    for tab, mine in pages:
        active = ",".join(f"{{__type__: 'update', active: {str(one in mine).lower()}}}" for one in timers)
        tab.select(None, None, timers, js=f"() => [{active}]", show_progress="hidden", queue=False)


class _Bar:
    """The line at the top: name, running jobs, who you are, what the lab runs on."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def html(self, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Draw the bar."""
        who = self.services.who(request)
        live = self.services.store.jobs.list(owner=who.name if who.is_visitor else None, states=LIVE)
        running = sum(job.state != "queued" for job in live)
        waiting = len(live) - running
        paused = self.services.store.line.pauses() if waiting else {}
        is_held = any(job.lane in paused for job in live if job.state == "queued")
        words = listed([f"{running} running"] * bool(running) + [f"{waiting} waiting"] * bool(waiting))
        words += ", the queue is paused" if is_held else ""
        chip = (
            f'<a href="?view=jobs" data-view="jobs" class="lab-badge lab-live" id="lab-running">'
            f'<i class="lab-dot"></i>{widgets.esc(words)}</a>'
            if live
            else ""
        )
        place = f"{widgets.esc(who.words)} · {widgets.esc(self._machine())}"
        return only_changed(
            seen,
            f'<div class="lab-bar"><span class="lab-name">{_MARK}Crucible</span>'
            f'<span class="lab-status">{chip}<span title="{place}">{place}</span>'
            f"</span></div>",
        )

    def _machine(self) -> str:
        alive = [worker for worker in self.services.store.workers.list() if worker.is_alive]
        devices = sorted({worker.device for worker in alive if worker.device})
        loaded = {name for worker in alive for name in worker.models_loaded}
        memory = f"{len(loaded)} model{'s' * (len(loaded) != 1)} in memory" if loaded else ""
        return " · ".join(part for part in (", ".join(devices) or "no workers yet", memory) if part)


_MARK = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7" fill="#2a6f97"/>'
    '<path d="M8 10h16l-2.6 11.2A4 4 0 0 1 17.5 24h-3a4 4 0 0 1-3.9-2.8z" fill="#fff"/>'
    '<path d="M11.2 15h9.6l-1.2 5.2a2 2 0 0 1-2 1.5h-3.2a2 2 0 0 1-2-1.5z" fill="#e69f00"/></svg>'
)
