"""The page on reliability says what the tests do."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_the_table_of_faults_is_the_one_that_the_tests_make(tmp_path: Path) -> None:
    page = Path(shutil.copy(PAGE, tmp_path))
    command = [sys.executable, "-m", "pytest", "tests/faults", "--collect-only", "-q", "--write-cases", page]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert page.read_text() == PAGE.read_text(), "run `make reliability`"
