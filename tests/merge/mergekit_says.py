"""Runs in mergekit's own environment: merges the tensors of a file as the cases beside them say.

    python mergekit_says.py FOLDER

FOLDER has cases.json, a list of {method, parameters, base, models, draws, out}, and tensors.safetensors.
Random decisions are those of `draws`, one tensor of 16-bit numbers for each model in order.
"""

import json
import sys
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file, save_file


def main(folder: Path) -> None:
    tensors = load_file(folder / "tensors.safetensors")
    merged = {}
    for case in json.loads((folder / "cases.json").read_text()):
        drawn = iter([tensors[name] for name in case["draws"]])

        def chosen(probabilities: torch.Tensor, drawn=drawn) -> torch.Tensor:
            numbers = next(drawn).view(probabilities.shape).double()
            return ((numbers + 0.5) / 65536 < probabilities.double()).to(probabilities.dtype)

        torch.bernoulli = chosen
        names = case["models"] + ([case["base"]] if case["base"] else [])
        merged[case["out"]] = merge_tensors(
            [tensors[name] for name in names],
            case["method"],
            parameters=case["parameters"],
            ids=names,
            base_index=len(names) - 1 if case["base"] else None,
            dtype=torch.float32,
        ).contiguous()
    save_file(merged, folder / "merged.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
