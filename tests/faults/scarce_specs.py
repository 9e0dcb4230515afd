"""The specs of the toys in scarce_kinds.py, apart from it: a test needs no torch to write one."""

from typing import Literal

from toy_kind import ToySpec


class HungrySpec(ToySpec):
    kind: Literal["hungry"] = "hungry"  # type: ignore[assignment]


class BrokenSpec(ToySpec):
    kind: Literal["broken"] = "broken"  # type: ignore[assignment]
