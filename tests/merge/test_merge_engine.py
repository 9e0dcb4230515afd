"""The streaming engine on tiny models: right to the bit, resumed after a kill, bounded by chunks."""

import torch
from safetensors.torch import load_file

from lab.merge.run import run
from lab.merge.spec import merge_of


def test_linear(family, job):
    outcome = run(
        merge_of("ties", [("a", 1.0), ("b", 1.0)], base="base", name="out", knobs={"density": 0.5}), job
    )
    print(
        outcome,
        job.notes,
        (outcome.models[0].folder / "README.md").read_text(),
        (outcome.models[0].folder / "config.json").read_text(),
    )
    assert 0
