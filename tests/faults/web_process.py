"""The page in a process of its own, which a test may kill, and a tab that follows an answer on it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from html import unescape
from pathlib import Path

import httpx
from worked_lab import HERE

from benchmarks.tab import Site, call


async def watch(port: int, job: str, kill: "subprocess.Popen[str] | None" = None) -> str:
    """Follow a job in a tab; once both columns write, kill the server. Return the answers' last HTML."""
    html = ""
    async with httpx.AsyncClient() as http:
        site = await Site.of(http, f"http://127.0.0.1:{port}")
        with suppress(httpx.HTTPError) if kill else nullcontext():
            async for outputs in call(http, site, "compare_resume", run=job):
                html = outputs[0]
                if kill and all(texts_of(html)):
                    kill.kill()
    return html


def texts_of(html: str) -> list[str]:
    """Return what stands in the columns while they write."""
    found = re.findall(r'<div class="lab-answer[^>]*>(.*?)</div>', html, flags=re.DOTALL)
    return [unescape(text) for text in found]


@contextmanager
def web_server(data: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Start the page without workers; end it at once."""
    environment = {**os.environ, "LAB_DATA": str(data), "LAB_PORT": str(port), "LAB_WORKERS": "0"}
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=HERE.parents[1], env=environment, text=True, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert "is ready" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()
