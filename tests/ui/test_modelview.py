"""What a list of models knows about one of them."""

from dataclasses import replace

from lab.core.store.rows import ModelRow
from lab.ui.modelview import layers

BASE = ModelRow("base", "base", "local", (), "imported", {"layers": 30}, 1, "0" * 64, None, 0.0)
ADAPTER = replace(BASE, name="adapter", kind="adapter", parents=("base",), facts={"parameters": 7})


def test_an_adapter_has_the_layers_of_what_it_stands_on() -> None:
    assert layers("adapter", [ADAPTER, BASE]) == layers("base", [BASE]) == 30


def test_layers_that_nobody_knows_are_none() -> None:
    assert layers("adapter", [ADAPTER]) == layers("elsewhere", [BASE]) == layers(None, []) == 0
