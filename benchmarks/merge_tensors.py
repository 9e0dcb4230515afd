"""One tensor in memory, merged here and by mergekit 0.1.5: CPU nanoseconds for each element and model.

    python -m benchmarks.merge_tensors

What a method costs without start-up, disk and page cache, which `merge_vs_mergekit` measures with it.
Three bf16 fine-tunes of a 1024 x 3584 base; the best of three runs, on one thread.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

from benchmarks.merge_vs_mergekit import VENV, install
from benchmarks.table import Row, table
from lab.merge.draws import Draws
from lab.merge.reading import CHUNK, Scratch
from lab.merge.registry import Found, merge_methods

SHAPE = (1024, 3584)
METHODS = {
    "ties": (10, {"density": 0.5}),
    "sce": (10, {"select_topk": 0.2}),
    "della": (10, {"density": 0.5}),
    "dare_ties": (5, {"density": 0.5}),
    "breadcrumbs": (5, {"density": 0.5, "gamma": 0.05}),
    "model_stock": (3, {}),
}
"""How many times fewer nanoseconds than mergekit each should take, and its knobs."""

MAKE = """
import torch
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
base = torch.randn(SHAPE, generator=generator) * 0.02
models = [(base + torch.randn(SHAPE, generator=generator) * 0.002).bfloat16() for _ in range(3)]
base = base.bfloat16()
"""

THEIRS = """
import json, time
from mergekit.merge_methods.api import merge_tensors
took = {}
for method, (_, knobs) in METHODS.items():
    weight = {} if method in ("sce", "model_stock") else {"weight": 0.4}
    runs = []
    for _ in range(2):
        start = time.process_time()
        merge_tensors([*models, base], method, parameters={**knobs, **weight}, base_index=3)
        runs.append(time.process_time() - start)
    took[method] = min(runs)
print(json.dumps(took))
"""


class Stack:
    """The tensor as the engine's stack gives it: bf16 values, read as float32 deltas into one buffer."""

    def __init__(self, models: list[Tensor], base: Tensor) -> None:
        self.shape, self.models = tuple(base.shape), len(models)
        self._models, self._base = [model.flatten() for model in models], base.flatten()
        self._scratch = Scratch(len(models))

    def chunks(self, multiple: int = 1) -> Iterator[Tensor]:
        """Start a pass over the deltas."""
        step = self._scratch.reserve(max(CHUNK // multiple, 1) * multiple)
        for start in range(0, len(self._base), step):
            end = min(start + step, len(self._base))
            rows = self._scratch.rows[: self.models, : end - start]
            for model, row in zip(self._models, rows, strict=True):
                row.copy_(model[start:end])
            yield rows.sub_(self._scratch.base[: end - start].copy_(self._base[start:end]))

    def sample(self, count: int) -> Tensor:
        """Return deltas from all over the tensor."""
        step = len(self._base) // count | 1
        rows = torch.stack([model[::step].float() for model in self._models])
        return rows.sub_(self._base[::step].float())

    def recall(self, what: Hashable, find: Callable[[], Found]) -> Found:  # noqa: ARG002  it keeps nothing
        """Find it: nothing is kept."""
        return find()


def ours(method: str, stack: Stack) -> float:
    """Return the CPU seconds of one merge, the best of three."""
    chosen = merge_methods[method]
    knobs = {name: info.default for name, info in chosen.knobs.model_fields.items()} | METHODS[method][1]
    runs = []
    for _ in range(3):
        start = time.process_time()
        for _ in chosen.stream(stack, torch.full((stack.models,), 0.4), knobs, Draws()):
            pass
        runs.append(time.process_time() - start)
    return min(runs)


def measure() -> list[Row]:
    """Merge the tensor both ways with every method of METHODS."""
    reason, names = install(), {"SHAPE": SHAPE}
    exec(MAKE, names)  # the same lines run in mergekit's environment
    stack = Stack(names["models"], names["base"])  # type: ignore[arg-type]  # a dict of mixed values
    mine = {method: ours(method, stack) for method in METHODS}
    theirs = {}
    if not reason:
        code = f"SHAPE, METHODS = {SHAPE!r}, {METHODS!r}\n{MAKE}{THEIRS}"
        command = [str(VENV / "bin" / "python"), "-c", code]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        theirs = json.loads(told.splitlines()[-1])
    return [_row(method, mine[method], theirs.get(method), reason) for method in METHODS]


def _row(method: str, mine: float, theirs: float | None, reason: str) -> Row:
    scale = 1e9 / (3 * SHAPE[0] * SHAPE[1])
    what, fewer = f"{method}, ns for each element and model", METHODS[method][0]
    if theirs is None:
        return Row(what, f"{mine * scale:.1f}", note=reason)
    factor = theirs / mine
    note = f"{mine * scale:.1f} to {theirs * scale:.1f}"
    return Row(what, f"{factor:.1f} times fewer", f"at least {fewer} times fewer", factor >= fewer, note)


if __name__ == "__main__":
    print(table("one tensor merged", "python -m benchmarks.merge_tensors", measure()))
    sys.exit(0)
