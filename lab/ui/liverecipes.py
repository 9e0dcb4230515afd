"""A live merge in words: its recipe over the column, what it takes, what it shares with the sliders. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.core.errors import Problem
from lab.core.store.rows import ModelRow
from lab.merge.registry import merge_methods
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec
from lab.ui import modelview, widgets
from lab.ui.transcript import Head
from lab.ui.words import duration, listed, size

_PLACES = ("recipes", "models", "slices", "parameters", "base_model", "model", "sources")


def heads(rows: Iterable[ModelRow], spec: Mapping[str, Any]) -> list[Head]:
    """Return what stands over the columns of a stored comparison; over a live merge stands its recipe."""
    recipes = {one["name"]: MergeSpec.model_validate(one) for one in spec.get("recipes", ())}
    known = modelview.heads(list(rows), spec["models"])
    return [Head(head.name, words_of(recipes[head.name])) if head.name in recipes else head for head in known]


def words_of(recipe: MergeSpec) -> str:
    """Say a recipe's numbers: "ties: pirate 0.7, sums 0.3 · density 0.4"."""
    models = [_weighted(source.model, source.parameters.get("weight")) for source in recipe.models]
    known = merge_methods[recipe.method].parameters
    knobs = [
        f"{name} {_plain(value)}" for name, value in recipe.parameters.items() if value != known[name].default
    ]
    return " · ".join([f"{recipe.method}: {', '.join(models)}", *knobs])


def status_html(live: LiveRecipe, given: MergeSpec) -> str:
    """Say what the sliders say now, and what merging it takes."""
    plan = live.plan
    inputs = max(len(tensor.inputs) for tensor in plan.tensors)
    seconds = plan.parameters * inputs * plan.method.nanoseconds * 1e-9
    told = [
        words_of(given),
        f"{listed(list(given.models_used()))} have the same shapes",
        f"{size(live.bytes_in('float32'))} of memory in float32, the siblings kept loaded",
        f"about {duration(max(seconds, 0.1))} of one core to merge again",
    ]
    lines = "".join(f'<li class="lab-yes"><span>{widgets.esc(words)}</span></li>' for words in told)
    return f'<ul class="lab-checks">{lines}</ul>'


def without_paths(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems of a recipe without the path to it, which nobody sees on this page."""
    return [Problem("", one.message) if one.field.split(".")[0] in _PLACES else one for one in problems]


def _weighted(model: str, weight: object) -> str:
    return model if weight is None else f"{model} {_plain(weight)}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
