"""Runs in mergekit's own environment: makes the mixtures of a file, with hidden states in float32.

    python mergekit_moe_says.py FOLDER

FOLDER has cases.json, a list of {config, out, seed}: mergekit-moe's YAML as a table, where to, and a seed.
"""

import functools
import json
import sys
from pathlib import Path

import torch
import transformers
from mergekit.moe import router
from mergekit.moe.config import MoEMergeConfig
from mergekit.options import MergeOptions
from mergekit.scripts.moe import build

plain = transformers.AutoModelForCausalLM.from_pretrained


def main(folder: Path) -> None:
    def in_float32(*args, **settings):
        return plain(*args, **settings | {"torch_dtype": torch.float32})

    router.AutoModelForCausalLM = type("Float32", (), {"from_pretrained": functools.partial(in_float32)})
    for case in json.loads((folder / "cases.json").read_text()):
        torch.manual_seed(case["seed"])
        build(MoEMergeConfig.model_validate(case["config"]), case["out"], MergeOptions(), device="cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
