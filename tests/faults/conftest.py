"""A lab of its own for every fault test, empty or with models in it; and the table of all faults."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from case_table import read_cases, with_table
from tiny_models import Bench
from worked_lab import LEASE_SECONDS, Lab, family, stock_model

from lab.core.settings import Settings
from lab.core.store import Store
from lab.core.store.rows import DatasetRow
from workers.queue import make_bells

HERE = Path(__file__).parent


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
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A fresh lab; whatever was started is ended afterwards."""
    settings = Settings(data=tmp_path / "data")
    settings.make_folders()
    store = Store(settings.database, lease_seconds=LEASE_SECONDS)
    store.database.migrate()
    lab = Lab(settings, store, make_bells(settings))
    yield lab
    for process in lab.consumers:
        for one in family(psutil.Process(process.pid)) if process.poll() is None else []:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    store.close()


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
