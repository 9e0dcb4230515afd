"""What deploy/ and its page name is there: settings, commands, addresses, metrics."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from lab.core.settings import Settings
from lab.core.store.census import Census
from lab.ui.metrics import metrics_text
from workers.queue import LANES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deploy.md").read_text()
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def read_unit(file: Path) -> ConfigParser:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(file)
    return unit


def test_every_setting_that_is_named_exists() -> None:
    files = [PAGE, *(file.read_text() for file in DEPLOY.rglob("*") if file.is_file())]
    named = {name for text in files for name in re.findall(r"\bLAB_[A-Z_]+[A-Z]\b", text)}
    known = {f"LAB_{name.upper()}" for name in Settings.model_fields}
    assert named - {"LAB_DATABASE_PASSWORD"} <= known  # that one is the compose file's own


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_a_unit_starts_something_that_is_there(file: Path) -> None:
    python, *words = read_unit(file)["Service"]["ExecStart"].split()
    assert python == "/opt/crucible/.venv/bin/python"
    if words[0] == "-m":
        assert (ROOT / words[1] / "__main__.py").is_file()
    else:
        assert (ROOT / words[0]).is_file()


def test_stopping_a_worker_signals_its_consumer_alone_and_waits_for_the_checkpoints() -> None:
    service = read_unit(DEPLOY / "systemd" / "crucible-worker@.service")["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 30


def test_the_target_wants_the_pages_and_both_lanes() -> None:
    wanted = read_unit(DEPLOY / "systemd" / "crucible.target")["Unit"]["Wants"].split()
    assert wanted == ["crucible-web.service", *(f"crucible-worker@{lane}.service" for lane in LANES)]


def test_the_compose_file_runs_the_pages_and_both_lanes() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    commands = {tuple(service["command"]) for name, service in services.items() if name != "database"}
    assert commands == {("python", "app.py"), *(("python", "-m", "workers", lane) for lane in LANES)}


def test_every_metric_that_is_named_is_served() -> None:
    census = Census(jobs={("running", "merge"): 1}, waiting={}, workers={("w", "chat"): 1.0}, crashes=0)
    served = set(re.findall(r"^# TYPE (crucible_\w+)", metrics_text(census), re.MULTILINE))
    assert set(re.findall(r"`(crucible_\w+)", PAGE)) == served
