"""Every method on the same tensors as mergekit 0.1.5, in float32. `make check-mergekit` runs it.

mergekit runs once, in its own environment, for all cases. Ours merges whole tensors and chunks. The
random decisions of both are the same, chosen beforehand.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merge_properties import Chunked, knobs_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.merge.draws import Draws
from lab.merge.recipe import NO_EFFECT
from lab.merge.registry import merge_methods

pytestmark = pytest.mark.mergekit

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".mergekit-venv" / "bin" / "python"
SHAPES = {"matrix": (40, 48), "vector": (96,), "cube": (3, 12, 16), "apart": (20, 24)}
"""The models of the last one have grown apart: as far from the base as it is large."""

WEIGHTS = (0.7, 0.4, -0.2)
"""Of three fine-tunes; no two of them, nor all, sum to zero."""


@dataclass(frozen=True)
class Case:
    """One method with some knobs, by mergekit's names."""

    method: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    models: int = 3
    base: bool = True
    shapes: tuple[str, ...] = ("matrix", "vector")

    @property
    def title(self) -> str:
        """The case's name among the results."""
        words = [f"{name}-{value}" for name, value in self.knobs.items()]
        return "-".join([self.method, *words, f"{self.models}", "base" if self.base else "free"])


CASES = [
    Case("linear", base=False, shapes=("matrix", "vector", "cube")),
    Case("linear", {"normalize": False}, base=False),
    Case("passthrough", {"scale": 0.3}, models=1, base=False),
    Case("slerp", {"t": 0.3}, models=1, shapes=("matrix", "vector", "apart")),
    Case("nuslerp", models=2),
    Case("nuslerp", models=2, base=False, shapes=("matrix", "apart")),
    Case("nuslerp", {"nuslerp_flatten": False}, models=2, shapes=("matrix", "vector", "cube")),
    Case("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, models=2),
    Case("multislerp", base=True),
    Case("multislerp", {"normalize_weights": False}, base=False, shapes=("matrix", "apart")),
    Case("multislerp", models=1),
    Case("karcher", base=False, shapes=("matrix", "vector", "cube", "apart")),
    Case("karcher", {"max_iter": 3}, models=2, base=False),
    Case("task_arithmetic", {"lambda": 0.6}),
    Case("task_arithmetic", {"normalize": True}),
    Case("ties", {"density": 0.3}, shapes=("matrix", "vector", "cube")),
    Case("ties", {"density": 0.5, "normalize": False, "rescale": True, "lambda": 1.3}),
    Case("dare_ties", {"density": 0.5}),
    Case("dare_ties", {"density": 0.25, "rescale": False, "normalize": True}),
    Case("dare_linear", {"density": 0.5}),
    Case("dare_linear", {"density": 0.25, "rescale": False, "normalize": True, "lambda": 0.5}),
    Case("breadcrumbs", {"density": 0.5, "gamma": 0.05}, shapes=("matrix", "vector", "cube")),
    Case("breadcrumbs", {"density": 0.9, "gamma": 0.3, "rescale": True, "normalize": True}),
    Case("breadcrumbs_ties", {"density": 0.5, "gamma": 0.05}),
    Case("breadcrumbs_ties", {"density": 0.3, "normalize": True}),
    Case("della", {"density": 0.5}),
    Case("della", {"density": 0.3, "epsilon": 0.1, "rescale": False, "normalize": False}),
    Case("della_linear", {"density": 0.5, "epsilon": 0.2}),
    Case("model_stock", models=2, shapes=("matrix", "vector", "cube")),
    Case("model_stock", {"filter_wise": True}, shapes=("matrix", "vector", "cube")),
    Case("nearswap", {"t": 0.001}, models=1),
    Case("arcee_fusion", models=1),
    Case("sce"),
    Case("sce", {"select_topk": 0.3}, shapes=("matrix", "vector", "cube")),
    Case("ram", {"epsilon": 0.01}),
    Case("ramplus_tl", {"epsilon": 0.01, "r": 0.5, "alpha": 0.7}),
]


class Given(Draws):
    """The random numbers that mergekit was given too."""

    def __init__(self, drawn: list[np.ndarray]) -> None:
        self._drawn = drawn

    def integers(self, model: int, start: int, count: int) -> np.ndarray:
        return self._drawn[model][start : start + count]

    def keep(self, model: int, probability: float, start: int, count: int) -> Tensor:
        return torch.from_numpy(self.integers(model, start, count) < probability * 65536)


def tensors() -> dict[str, Tensor]:
    """Return a base and three fine-tunes that share a direction, in each shape, and their draws."""
    generator = torch.Generator().manual_seed(11)
    made: dict[str, Tensor] = {}
    for shape, sizes in SHAPES.items():
        base, shared = torch.randn(2, *sizes, generator=generator)
        made[f"{shape}.base"], far = base * 0.5, 0.5 if shape == "apart" else 0.02
        for model in range(3):
            own = torch.randn(sizes, generator=generator)
            made[f"{shape}.{model}"] = made[f"{shape}.base"] + far * (0.6 * shared + own)
            made[f"{shape}.draws.{model}"] = torch.randint(1 << 16, sizes, generator=generator)
    return made


@pytest.fixture(scope="module")
def mergekit_s(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What mergekit makes of every case."""
    if not PROGRAM.exists():
        pytest.skip("make check-mergekit makes mergekit's environment")
    folder = tmp_path_factory.mktemp("mergekit")
    save_file(tensors(), folder / "tensors.safetensors")
    cases = [described(case, shape) for case in CASES for shape in case.shapes]
    (folder / "cases.json").write_text(json.dumps(cases))
    program = Path(__file__).parent / "mergekit_says.py"
    subprocess.run([PROGRAM, program, folder], check=True, timeout=600)
    return load_file(folder / "merged.safetensors")


def described(case: Case, shape: str) -> dict[str, Any]:
    """Return a case as mergekit's side reads it."""
    method = merge_methods[case.method]
    models = [f"{shape}.{model}" for model in range(case.models)]
    parameters = dict(case.knobs)
    if method.weighted:
        parameters["weight"] = dict(zip(models, WEIGHTS, strict=False))
    for name in set(parameters) & method.per_model:
        parameters[name] = dict.fromkeys(models, parameters[name])
    draws = [f"{shape}.draws.{model}" for model in range(case.models)] if method.is_random else []
    return {
        "method": case.method, "parameters": parameters, "models": models, "draws": draws,
        "base": f"{shape}.base" if case.base else None, "out": f"{case.title}.{shape}",
    }  # fmt: skip


def ours(case: Case, shape: str, length: int = 0) -> Tensor:
    """Merge a case here: whole tensors, or in chunks of a length."""
    method, made = merge_methods[case.method], tensors()
    base, rows = made[f"{shape}.base"], torch.stack([made[f"{shape}.{i}"] for i in range(case.models)])
    takes_deltas = case.base and method.base in ("delta", "optional")
    if takes_deltas:
        rows = rows - base
    elif case.base:
        rows = torch.cat([base[None], rows])
    weights = torch.tensor(WEIGHTS[: len(rows)]) if method.weighted else torch.ones(len(rows))
    knobs = knobs_of(method, **{"lambda_" if k == "lambda" else k: v for k, v in case.knobs.items()})
    draws = Given([made[f"{shape}.draws.{i}"].flatten().numpy().astype(np.uint16) for i in range(3)])
    if length:
        pieces = method.stream(Chunked(rows, length), weights, knobs, draws)
        merged = torch.cat([piece.clone() for piece in pieces]).view(base.shape)
    else:
        merged = method.function(rows, weights, **method.arguments(knobs, draws))
    return base + merged if takes_deltas else merged


@pytest.mark.parametrize("length", [0, 500], ids=["whole", "chunks"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_method_agrees_with_mergekit(case: Case, length: int, mergekit_s: dict[str, Tensor]):
    """Within 1e-5 of the tensor's largest merged change, and what float32 rounds."""
    for shape in case.shapes:
        merged, expected = ours(case, shape, length), mergekit_s[f"{case.title}.{shape}"]
        base = tensors()[f"{shape}.base"]
        largest = float((expected - base).abs().max())
        rounding = 4 * torch.finfo(torch.float32).eps * float(base.abs().max())
        assert float((merged - expected).abs().max()) <= 1e-5 * largest + rounding, shape
        assert case.models == 1 or float((expected - base).abs().max()) > 0


def test_every_method_of_mergekit_s_is_here_with_its_parameters_and_defaults():
    if not PROGRAM.exists():
        pytest.skip("make check-mergekit makes mergekit's environment")
    code = """
import json
from mergekit.merge_methods.registry import registered_methods
say = lambda p: None if p.required else p.default
print(json.dumps({m.spec.name: {p.name: say(p) for p in m.spec.parameters} for m in registered_methods()}))
"""
    told = subprocess.run([PROGRAM, "-c", code], check=True, capture_output=True, text=True, timeout=600)
    theirs = json.loads(told.stdout)
    assert set(theirs) <= set(merge_methods)
    for name, parameters in theirs.items():
        known = merge_methods[name].parameters
        for parameter, default in parameters.items():
            if name in NO_EFFECT.get(parameter, ()):
                continue
            assert parameter in known, (name, parameter)
            if default is not None:
                assert known[parameter].default == default, (name, parameter)
