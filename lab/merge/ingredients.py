"""The models of a merge as their headers and configs tell them; an adapter lies over its base.

Reads no weight. A tensor of an adapter is its base's tensor plus scale * B @ A, known here by where
the three lie.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput, NotFound
from lab.core.job import Shelf
from lab.merge.reference import find
from lab.models.config import (
    ModelConfig,
    is_adapter,
    read_adapter_config,
    read_json,
    read_model_config,
)
from lab.models.headers import TensorInfo, read_headers, refuse
from lab.models.vocabulary import Vocabulary

HEAD = "lm_head.weight"
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight")
_LAYER = re.compile(r"^((?:\w+\.)*?(?:layers|h|blocks))\.(\d+)\.(.+)$")
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Fold:
    """A low-rank change of one matrix: scale * up @ down is added to it.

    Attributes:
        down: A, of shape (rank, columns).
        up: B, of shape (rows, rank).
        scale: lora_alpha / rank, or lora_alpha / sqrt(rank) for rank-stabilised LoRA.
    """

    down: TensorInfo
    up: TensorInfo
    scale: float


@dataclass(frozen=True)
class Ingredient:
    """One model of a merge.

    Attributes:
        ref: its name, as the recipe has it.
        folder: its folder; of an adapter the base's, whose config and tokenizer it shares.
        config: what its config.json says.
        raw: config.json as it is.
        tensors: where each tensor lies.
        folds: of an adapter, what is added to which tensor.
        parents: of an adapter its base's name.
        vocabulary: of a model that is yet to be made, its tokens; None to read them in a folder.
        tokenizer_folder: where to read them, if not in its own folder.
    """

    ref: str
    folder: Path
    config: ModelConfig
    raw: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    folds: Mapping[str, Fold] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    tokenizer_folder: Path | None = None

    @cached_property
    def layers(self) -> dict[int, dict[str, str]]:
        """The tensors of each layer: name within the layer -> full name."""
        layers: dict[int, dict[str, str]] = {}
        for name in self.tensors:
            if match := _LAYER.match(name):
                layers.setdefault(int(match[2]), {})[match[3]] = name
        return layers

    @cached_property
    def outer(self) -> list[str]:
        """The tensors outside layers, without the output head."""
        return [name for name in self.tensors if not _LAYER.match(name) and name != HEAD]

    def tensor(self, name: str) -> str | None:
        """Return the tensor that plays this role: of a tied model, the embedding is the output head too."""
        if name in self.tensors and not (name == HEAD and self.config.tied):
            return name
        if name == HEAD and self.config.tied:
            return next((embedding for embedding in EMBEDDINGS if embedding in self.tensors), None)
        return None


def read_ingredient(ref: str, shelf: Shelf, made: Mapping[str, "Ingredient"] | None = None) -> Ingredient:
    """Read headers and configs of one model, and of its base where it is an adapter.

    Args:
        ref: the model, as the recipe spells it.
        shelf: where names become places.
        made: models that the recipe itself makes, by name.

    Raises:
        BadInput: there is no such model, or it can't be merged; says why.
    """
    made = made or {}
    if ref in made:
        return made[ref]
    reference = find(ref, shelf)
    if reference.adapter:
        base = made.get(reference.model) or read_ingredient(reference.model, shelf)
        return _overlaid(ref, shelf.model(reference.adapter), base)
    folder = shelf.model(reference.model)
    if is_adapter(folder):
        return _adapter(ref, folder, shelf)
    tensors = read_headers(folder)
    config = read_model_config(folder)
    if config.quantisation:
        raise BadInput(
            f"The weights of {ref} are quantised ({config.quantisation}).",
            "Merging starts from plain weights.",
            "Use the model that it was quantised from.",
        )
    return Ingredient(ref, folder, config, read_json(folder / "config.json"), tensors)


def _adapter(ref: str, folder: Path, shelf: Shelf) -> Ingredient:
    base_ref = read_adapter_config(folder).base
    try:
        base_folder = shelf.model(base_ref)
    except NotFound:
        raise BadInput(
            f"{ref} is an adapter of {base_ref!r}, which is not in the lab.",
            "An adapter is merged together with its base.",
            "Add the base model first, or make a full model of the adapter.",
        ) from None
    if is_adapter(base_folder):
        raise _adapter_of_adapter(ref, base_ref)
    return _overlaid(ref, folder, read_ingredient(base_ref, shelf))


def _adapter_of_adapter(ref: str, base_ref: str) -> BadInput:
    return BadInput(
        f"{ref} is an adapter of {base_ref}, which is an adapter itself.",
        "The base of an adapter is a full model.",
        f"Make a full model of {base_ref} first.",
    )


def _overlaid(ref: str, folder: Path, base: Ingredient) -> Ingredient:
    """Lay an adapter over the model that it is used with."""
    if not is_adapter(folder):
        raise BadInput(
            f"{ref} has {folder.name} after the +, which is no adapter.",
            "model+adapter lays an adapter over a model.",
            "Name a folder with an adapter_config.json there, or merge the two models.",
        )
    if base.folds:
        raise _adapter_of_adapter(ref, base.ref)
    read_adapter_config(folder)
    settings = read_json(folder / "adapter_config.json")
    _refuse_variants(ref, settings)
    tensors, folds = _overlay(base, read_headers(folder), settings)
    return replace(base, ref=ref, tensors=tensors, folds=folds, parents=(base.ref,))


def _refuse_variants(ref: str, settings: Mapping[str, Any]) -> None:
    """Refuse the kinds of LoRA that are not a plain sum."""
    for key in (
        "use_dora",
        "fan_in_fan_out",
        "lora_bias",
        "alora_invocation_tokens",
        "trainable_token_indices",
    ):
        if settings.get(key):
            raise BadInput(
                f"The adapter {ref} was made with {key}.",
                "Adapters are folded in as W + scale * B A.",
                "Make a full model of it first, and merge that.",
            )


def _overlay(
    base: Ingredient, changes: Mapping[str, TensorInfo], settings: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, Fold]]:
    """Lay an adapter's tensors over its base's: low-rank changes are added, whole tensors replace."""
    tensors, folds = dict(base.tensors), {}
    for name, info in changes.items():
        if name.endswith(_UP):
            continue
        plain = name.removeprefix(_PREFIX)
        if not name.endswith(_DOWN):
            _check_place(base, info, name, plain, info.shape)
            tensors[plain] = info
            continue
        module = plain.removesuffix(_DOWN)
        up = changes.get(name.removesuffix(_DOWN) + _UP)
        if up is None or len(up.shape) != 2 or len(info.shape) != 2 or up.shape[1] != info.shape[0]:
            refuse(info.file, "its lora_B matrix is missing or doesn't fit", name)
        target = f"{module}.weight"
        _check_place(base, info, name, target, (up.shape[0], info.shape[1]))
        folds[target] = Fold(info, up, _scale(settings, module, info.shape[0]))
    return tensors, folds


def _check_place(base: Ingredient, info: TensorInfo, name: str, target: str, shape: tuple[int, ...]) -> None:
    if target not in base.tensors:
        refuse(info.file, f"it changes {target}, which {base.ref} doesn't have", name)
    if base.tensors[target].shape != shape:
        refuse(
            info.file,
            f"it changes a tensor of {shape}; in {base.ref} it is {base.tensors[target].shape}",
            name,
        )


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    return float(alpha) / (sqrt(rank) if settings.get("use_rslora") else rank)


def _pattern(patterns: object, module: str, default: float) -> float:
    """Return the value of the first name that a module's path ends with, else the default.

    peft takes regular expressions there; an adapter from elsewhere could make one run for hours.
    """
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if not re.fullmatch(r"[A-Za-z0-9_.]+", pattern):
            raise BadInput(
                f"adapter_config.json: alpha_pattern has {str(pattern)[:60]!r}.",
                "It names modules, without the signs of a pattern.",
                "Make a full model of the adapter first, and merge that.",
            )
        if module == pattern or module.endswith(f".{pattern}"):
            return float(value)
    return default
