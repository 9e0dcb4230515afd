"""The text that a merge's models read first, as the Merge page asks for it: one control.

Knows which dataset a model of the lab was trained on; reads no file.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from lab.core.store import Store
from lab.core.store.rows import DatasetRow, ModelRow
from lab.ui.modelview import HOUSE
from lab.ui.services import Who

OWN = "what each was trained on"
"""The choice by which every model reads its own training data."""


def control(*, is_shown: bool) -> Any:
    """Make the control where the caller's layout stands."""
    return gr.Dropdown(
        label="Text that the models read first",
        choices=[OWN],
        value=OWN,
        visible=is_shown,
        elem_id="lab-merge-data",
        info="One model after the other; it takes the time that stands beside the form",
    )


def choices(store: Store, who: Who) -> list[str]:
    """Return what somebody may choose: each model's own data, or one dataset for all."""
    rows: Iterable[DatasetRow] = store.datasets.list()
    return [OWN, *(row.name for row in rows if not who.is_visitor or row.owner in (who.name, HOUSE))]


def data_for(models: Sequence[str], choice: str | None, rows: Iterable[ModelRow]) -> Mapping[str, str]:
    """Return the dataset of each model; one whose training data nobody knows is left out."""
    if choice != OWN:
        return dict.fromkeys(models, choice) if choice else {}
    known = {row.name: str(row.facts.get("dataset") or "") for row in rows}
    return {model: known[model] for model in models if known.get(model)}
