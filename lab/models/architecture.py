"""Whether a folder's tensors are those of its architecture, as transformers builds it."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.models.headers import TensorInfo, read_headers

Parts = list[tuple[str, TensorInfo]]
"""The stored tensors that one of the model's is made of, with their names."""


def check_architecture(folder: Path, tensors: Mapping[str, TensorInfo] | None = None) -> None:
    """Compare the tensors with those of the architecture as transformers builds it.

    Args:
        folder: where config.json is.
        tensors: what there is; the folder's own when None.

    Raises:
        BadInput: transformers doesn't know it, or expects a tensor that is missing or has another shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(
            f"config.json: transformers can't build this model ({str(error)[:200]}).",
            "The lab works with architectures that transformers has.",
            "Check the file, or choose another model.",
        ) from None
    have = _as_built(model, read_headers(folder) if tensors is None else tensors)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    for name, weight in model.state_dict().items():
        if name not in have and name not in tied:
            raise BadInput(
                f"The tensor {name!r} is missing.",
                f"{type(model).__name__} has it.",
                "Copy the folder again.",
            )
        if name in have and (wrong := _unlike(have[name], tuple(weight.shape))):
            raise BadInput(
                wrong,
                f"{type(model).__name__} has {name} as {tuple(weight.shape)}.",
                "Take config.json and weights from the same folder.",
            )


def _as_built(model: Any, tensors: Mapping[str, TensorInfo]) -> dict[str, Parts]:
    """Return the stored tensors by what transformers makes of them.

    Some have other names in files, and the experts of a mixture lie there one by one.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    built: dict[str, Parts] = {}
    for name, info in tensors.items():
        built.setdefault(rename_source_key(name, renamings, converters)[0], []).append((name, info))
    return built


def _unlike(parts: Parts, shape: tuple[int, ...]) -> str:
    """Say in what the stored parts of a tensor are not what its shape asks for; nothing where they are."""
    name, first = parts[0]
    if len(parts) == 1:
        return "" if first.shape == shape else f"{first.file.name}, tensor {name!r}: it is {first.shape}."
    count = sum(part.elements for _, part in parts)
    if count == prod(shape):
        return ""
    return f"{first.file.name}: there are {len(parts)} tensors like {name!r}, of {count:,} numbers."
