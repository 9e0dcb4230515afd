"""The table of faults in docs/reliability.md, made from the tests' own markers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

START, END = "<!-- cases: made by `make reliability` -->", "<!-- end of cases -->"


@dataclass(frozen=True)
class Case:
    """One fault: its id, what happens, and the tests that inject it."""

    id: str
    words: str
    tests: tuple[str, ...]

    @property
    def order(self) -> tuple[str, int]:
        """Groups by letter, cases by number."""
        return self.id[0], int(self.id[1:])


def read_cases(items: Iterable[pytest.Item], root: Path) -> list[Case]:
    """Return the cases that collected tests are marked with, in order."""
    found: dict[str, tuple[str, list[str]]] = {}
    for item in items:
        for marker in item.iter_markers("case"):
            name, words = marker.args
            test = f"{item.path.relative_to(root).as_posix()}::{item.nodeid.split('::', 1)[1]}"
            found.setdefault(name, (words, []))[1].append(test)
    cases = [Case(name, words, tuple(tests)) for name, (words, tests) in found.items()]
    return sorted(cases, key=lambda case: case.order)


def with_table(page: str, cases: Sequence[Case]) -> str:
    """Return a page with the table between its two marks made anew."""
    rows = [f"| {case.id} | {case.words} | {_tests(case)} |" for case in cases]
    count = sum(len(case.tests) for case in cases)
    head = [f"{len(cases)} faults, {count} tests.", "", "| case | what happens | test |", "|---|---|---|"]
    table = "\n".join([START, *head, *rows, END])
    return re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: table, page, flags=re.DOTALL)


def _tests(case: Case) -> str:
    functions: dict[str, list[str]] = {}
    for test in case.tests:
        function, _, variant = test.removesuffix("]").partition("[")
        functions.setdefault(function.split("/")[-1], []).append(variant)
    return "<br>".join(
        f"`{function}`" + (f" on {', '.join(variants)}" if any(variants) else "")
        for function, variants in functions.items()
    )
