"""`python -m benchmarks [NAME ...]`: run the benchmarks one after another and print a table for each.

Each runs in a process of its own, so that neither memory nor warm caches of one help or harm the next.
"""

import argparse
import importlib
import subprocess
import sys

from benchmarks.table import table
from lab.core.settings import enter_child_environment

BENCHMARKS = {
    "page": "page and queue: what a person waits for",
    "load": "load: what a job costs beside its work, on every database and queue",
    "crowd": "crowd: fifty people who follow an answer, and fifty who ask",
    "streaming": "streamed tokens per second against a bare generate loop",
    "training": "training tokens per second against a bare trainer",
    "merge_vs_mergekit": "merges against mergekit",
    "merge_tensors": "one tensor merged, against mergekit",
    "live_merge": "the starter model merged anew in memory, on Compare",
    "scoring": "scoring against a bare scorer",
}
"""Every benchmark module and its title. A module has `measure() -> list[Row]`."""


def main(argv: list[str]) -> int:
    """Run the benchmarks named, or all; 1 when one fails or misses its target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; none runs all")
    names = parser.parse_args(argv).names
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    if len(names) == 1:
        return run(names[0])
    return max([subprocess.call([sys.executable, "-m", "benchmarks", name]) for name in names or BENCHMARKS])


def run(name: str) -> int:
    """Run one benchmark here and print its table."""
    enter_child_environment()
    rows = importlib.import_module(f"benchmarks.{name}").measure()
    print(table(BENCHMARKS[name], f"python -m benchmarks {name}", rows), flush=True)
    return int(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
