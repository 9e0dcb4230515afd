"""Merging the starter model anew in memory: what a person waits for who moves a slider on Compare."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.table import Row
from lab.core.job import Device
from lab.merge.live import LiveModel
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec, merge_of
from lab.models.catalog import PathShelf
from lab.models.starter import default_cache, fetch

SLIDERS = {
    "linear": ("weight",),
    "slerp": ("t",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "sce": ("select_topk",),
}
"""What can be moved of each method."""

PLACES = (0.5, 0.4, 0.6, 0.3)
"""Where a slider is put, one after the other; the first merge warms up and doesn't count."""

AT_MOST_SECONDS = 1.0


def measure() -> list[Row]:
    """Move each method's weight, and its density where it has one, and see how long the merging takes."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="live-bench-") as name:
        models = _siblings(Path(name))
        return [_row(method, slider, models, cores) for method in SLIDERS for slider in SLIDERS[method]]


def _siblings(room: Path) -> dict[str, Path]:
    """Return the starter model, and two fine-tunes of it made up of noise a hundredth of its scale."""
    base = fetch(default_cache(), say=print)
    models = {"base": base}
    for seed, name in enumerate(("one", "two")):
        folder = models[name] = room / name
        folder.mkdir()
        draws = torch.Generator().manual_seed(seed)
        tuned = load_file(base / "model.safetensors")
        for value in tuned.values():
            value.add_(torch.randn(value.shape, generator=draws) * value.float().std() / 100)
        save_file(tuned, folder / "model.safetensors", {"format": "pt"})
        for file in base.iterdir():
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return models


def _row(method: str, slider: str, models: Mapping[str, Path], cores: int) -> Row:
    shelf = PathShelf(None, models["one"])
    recipes = [LiveRecipe.find(_spec(method, slider, place, models), shelf) for place in PLACES]
    live = LiveModel(recipes[0], Device("cpu", "bfloat16", "CPU", 1 << 40))
    took = []
    for recipe in recipes:
        with live.merged(recipe, threads=cores) as seconds:
            took.append(seconds)
    slowest = max(took[1:])
    return Row(
        f"{method}, {slider} moved: seconds until the model is merged",
        f"{slowest:.2f} s",
        f"under {AT_MOST_SECONDS:g} s",
        slowest < AT_MOST_SECONDS,
        f"the slowest of {len(took) - 1}, on {cores} cores",
    )


def _spec(method: str, slider: str, place: float, models: Mapping[str, Path]) -> MergeSpec:
    knobs: dict[str, Any] = {"density": 0.5} if "density" in SLIDERS[method] else {}
    weight = place if slider == "weight" else 0.5
    if slider != "weight":
        knobs[slider] = place
    merged = ["one"] if method == "slerp" else ["one", "two"]
    return merge_of(
        method,
        [(str(models[name]), weight) for name in merged],
        name="live",
        base=None if method == "linear" else str(models["base"]),
        knobs=knobs,
    )
