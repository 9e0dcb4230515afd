"""Loads models to compute with, and keeps the last ones used. Only for processes that run jobs.

Imports transformers and peft when first needed. Knows no job kind; one loads by name from a shelf.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Device
from lab.models.source import Source

END_MARKS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
"""Ends of a turn in common chat formats; a model that has one as special token ends there too."""

UNBOUNDED_CONTEXT = 1 << 20
"""The context of a model that states none, such as a recurrent one."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready to answer.

    Attributes:
        name: as it was asked for.
        model: of transformers, in eval mode; an adapter is folded into its base.
        tokenizer: of transformers.
        device: where it computes, in torch's words.
        context: the longest conversation, in tokens, the answer included.
        stop_ids: tokens that end an answer.
        size_bytes: what its weights take in memory.
    """

    name: str
    model: Any
    tokenizer: Any
    device: str
    context: int
    stop_ids: frozenset[int]
    size_bytes: int


def load(source: Source, device: Device) -> Loaded:
    """Load a model, or an adapter folded into its base.

    Raises:
        BadInput: the folder is no usable model, or the adapter doesn't fit its base.
        JobFailed: it is too large for the memory there is.
    """
    facts = source.check()
    _check_room(source, device)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        source.full,
        dtype=getattr(torch, device.dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if source.base is not None:
        model = _fold(model, source.folder)
    model = model.to(device.torch).eval()
    tokenizer = load_tokenizer(source)
    return Loaded(
        name=source.name,
        model=model,
        tokenizer=tokenizer,
        device=device.torch,
        context=facts.context or UNBOUNDED_CONTEXT,
        stop_ids=_stop_ids(model, tokenizer),
        size_bytes=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
    )


def load_tokenizer(source: Source) -> Any:
    """Load a model's tokenizer: an adapter's own where it has one, else its base's.

    Raises:
        BadInput: there is none that can be read.
    """
    from transformers import AutoTokenizer

    own = (source.folder / "tokenizer.json").is_file()
    folder = source.folder if own or source.base is None else source.base
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"The tokenizer of {source.name} can't be read: {str(error)[:200]}.",
            "A model folder has tokenizer.json and tokenizer_config.json.",
            "Take both files from the model's original folder.",
        ) from None


class Held(Protocol):
    """Something with weights in memory that the cache can let go of."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        ...


Kept = TypeVar("Kept", bound=Held)


class ModelCache:
    """The models used last, kept in memory within a budget. Any thread may ask.

    Args:
        budget_bytes: for all of them together; None takes half of what the device had free at first.

    Attributes:
        loading: held while a model is loaded. Hold it to compute with tensors that are made on the way:
            while transformers (5.23) loads, torch's default dtype is the model's, in every thread.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        self.loading = threading.Lock()
        self._budget = budget_bytes
        self._models: OrderedDict[Hashable, Held] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: Source, device: Device) -> Loaded:
        """Return a model, loading it where it isn't in memory; the ones used longest ago make room.

        Raises:
            BadInput: the folder is no usable model.
            JobFailed: it is too large for the memory there is.
        """
        size_bytes = source.bytes_in(device.dtype)
        return self.keep(_key(source, device), size_bytes, device, lambda: load(source, device))

    def keep(self, key: Hashable, size_bytes: int, device: Device, make: Callable[[], Kept]) -> Kept:
        """Return what is kept under a key, making it where it isn't; what was used longest ago makes room.

        Args:
            key: names exactly these weights; one key always keeps one type.
            size_bytes: what it will take.
            device: whose memory it takes.
            make: loads it; nothing else is loaded meanwhile.
        """
        with self._lock:  # transformers can't load two models at once in one process
            if key in self._models:
                self._models.move_to_end(key)
                return cast(Kept, self._models[key])
            if self._budget is None:
                self._budget = device.free_bytes // 2
            self._make_room(self._budget - size_bytes)
            with self.loading:
                made = make()
            self._models[key] = made
            return made

    def has(self, source: Source, device: Device) -> bool:
        """Whether a model is in memory."""
        return _key(source, device) in self._models

    def names(self) -> tuple[str, ...]:
        """Return the names of what is in memory, the one used last at the end."""
        return tuple(loaded.name for loaded in self._models.values())

    def size_bytes(self) -> int:
        """Return what the models in memory take."""
        return sum(loaded.size_bytes for loaded in tuple(self._models.values()))

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._make_room(0)

    def _make_room(self, left: int) -> None:
        """Drop models until the rest takes at most `left` bytes, or none is left."""
        gone = False
        while self._models and sum(model.size_bytes for model in self._models.values()) > max(left, 0):
            self._models.popitem(last=False)
            gone = True
        if gone and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _key(source: Source, device: Device) -> Hashable:
    """Name exactly these weights on this device: folders by their files' places, sizes and times."""
    stamps = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino)
        for folder in (source.folder, source.base)
        if folder is not None
        for file in sorted(folder.glob("*.safetensors"))
    ]
    return (source.folder, source.base, device.torch, device.dtype, tuple(stamps))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the device or beside it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's CPU allocator


def _check_room(source: Source, device: Device) -> None:
    need = source.bytes_in(device.dtype)
    if need > device.free_bytes:
        raise JobFailed(
            "out_of_memory",
            f"{source.name} takes {need / 1e9:.1f} GB in {device.dtype}; {device.words} has "
            f"{device.free_bytes / 1e9:.1f} GB free. Use a smaller model, or close what else takes memory.",
        )


def _fold(base: Any, adapter: Path) -> Any:
    """Add an adapter to its base's weights, so that it computes as fast as a full model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(adapter), is_trainable=False).merge_and_unload(safe_merge=True)


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    ids = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    special = tokenizer.get_added_vocab()
    ids |= {special.get(mark) for mark in END_MARKS}
    return frozenset(token for token in ids if token is not None)
