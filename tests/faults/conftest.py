"""A lab of its own for every fault test, empty or with models in it; and the table of all faults."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from case_table import read_cases, with_table
from servers import Backend, open_backend
from tiny_models import Bench
from worked_lab import LEASE_SECONDS, Lab, stock_model

from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.rows import DatasetRow
from workers.queue import make_bells

HERE = Path(__file__).parent
ORPHANS_SECONDS = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-cases", type=Path, help="write the table of faults into this page")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark everything here as a fault, and write the table if asked."""
    here = [item for item in items if item.path.is_relative_to(HERE)]
    for item in here:
        item.add_marker(pytest.mark.fault)
        item.add_marker(pytest.mark.server)
    page: Path | None = config.getoption("--write-cases", None)
    if page:
        page.write_text(with_table(page.read_text(), read_cases(here, HERE.parents[1])))


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A fresh lab, on SQLite unless a test names another backend ("own redis" is one that it may kill).

    Its consumers are killed afterwards, and nothing of theirs may live on.
    """
    named = getattr(request, "param", "sqlite")
    for backend in open_backend(request, named.removeprefix("own "), own=named.startswith("own ")):
        lab = _open_lab(backend.settings(tmp_path / "data"), backend)
        yield lab
        orphans = _end(lab)
        lab.store.close()
        for bell in lab.bells.values():
            bell.close()
        assert not orphans, "these lived on when their consumers were killed"


def _open_lab(settings: Settings, backend: Backend) -> Lab:
    settings.make_folders()
    store = Store(settings.database, lease_seconds=LEASE_SECONDS)
    store.database.migrate()
    return Lab(settings, store, make_bells(settings), backend)


def _end(lab: Lab) -> list[psutil.Process]:
    """Kill a lab's consumers, and return (and kill) what they leave behind that does not end by itself."""
    for process in lab.consumers:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    deadline = time.monotonic() + ORPHANS_SECONDS
    while (orphans := lab.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in orphans:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return orphans


@pytest.fixture
def stocked(lab: Lab, bench: Bench, tmp_path: Path) -> Lab:
    """A lab with tiny models and a small dataset."""
    for name in ("base", "pirate", "sums"):
        stock_model(lab, getattr(bench, name), name, tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n * n}!"}]}
        for n in range(40)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (lab.settings.datasets / "squares.jsonl").write_text(text)
    lab.store.datasets.insert(DatasetRow("squares", "test", {}, len(text), "", 0.0))
    return lab
