"""Has a merge's models read their texts, one model at a time, and keeps what was found in the job's folder.

A model whose statistics are written is not loaded again, so a merge goes on after a crash. Knows how
texts become tokens and where files lie; the arithmetic is in `sensing.py`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Job
from lab.data.encoding import IGNORED, encode
from lab.data.formats import Conversation
from lab.merge.calibration import GROUP_BYTES, MAX_TOKENS, Reading
from lab.merge.plan import MergePlan, OutputTensor
from lab.merge.sensing import Row, fisher_of, grams_of, linear_layers, shared_inputs
from lab.merge.statistics import Known
from lab.models.runtime import Loaded, load
from lab.models.source import Source

WEIGHT = ".weight"


@dataclass(frozen=True)
class Found:
    """What the models of a merge were found to be: for each input in order, tensor name -> file and key."""

    places: Sequence[Mapping[str, tuple[Path, str]]]
    kind: str

    def known_for(self, tensor: OutputTensor) -> Known:
        """Return a tensor's statistics as the method takes them; nothing where a model has none."""
        known = {}
        for place, part in enumerate(tensor.inputs):
            if part.tensor not in self.places[place]:
                return {}
            file, key = self.places[place][part.tensor]
            with safe_open(file, "pt") as opened:
                known[f"{self.kind}.{place}"] = opened.get_tensor(key)  # mapped from the file, not read
        return known


def calibrate(plan: MergePlan, readings: Sequence[Reading], work: Path, recipe: str, job: Job) -> Found:
    """Have each model read its text.

    Args:
        plan: the merge, of whole models.
        readings: what they read, in the order of the models.
        work: a folder that survives a crash.
        recipe: what is being made; statistics of another recipe don't count.
        job: where to compute; is asked before every text whether to go on.

    Raises:
        JobFailed: a model doesn't fit into the memory, or finds numbers that are not finite.
        ControlFlow: the job was cancelled, released or fenced; finished statistics stay.
    """
    work.mkdir(parents=True, exist_ok=True)
    wanted = [tensor.inputs[0].tensor for tensor in plan.tensors if not tensor.copied]
    kind = str(plan.method.calibration)
    pace = _Pace(job, len(readings), plan.reading_seconds / plan.seconds)
    places = []
    for number, reading in enumerate(readings):
        index = work / f"{number}.done"
        if _text(index) != recipe:
            reader = _Reader(kind, wanted, reading, job, partial(pace.tell, number))
            reader.write(work, number, recipe)
            index.write_text(recipe, "utf-8")
        places.append(_keys(work, number))
    return Found(places, kind)


class _Pace:
    """Tells the owner how far the reading is."""

    def __init__(self, job: Job, models: int, share: float) -> None:
        self._job, self._models, self._share = job, models, share
        self._start = time.monotonic()

    def tell(self, number: int, words: str, part: float) -> None:
        """Tell which part of its reading this model has done."""
        self._job.breathe()
        share = self._share * (number + part) / self._models
        left = (time.monotonic() - self._start) * (1 / share - 1) if share > 0.01 else None
        self._job.progress(share, words, left)


class _Reader:
    """One model's reading."""

    def __init__(
        self, kind: str, wanted: Iterable[str], reading: Reading, job: Job, tell: Callable[[str, float], None]
    ) -> None:
        self._kind, self._wanted, self._reading = kind, list(wanted), reading
        self._job, self._tell = job, tell

    def write(self, work: Path, number: int, recipe: str) -> None:
        """Load the model, have it read, and write a file for each group of statistics."""
        name = self._reading.model
        self._tell(f"Loading {name}", 0.0)
        loaded = load(Source.find(name, self._job), replace(self._job.device, dtype="float32"))
        rows = [_row(conversation, loaded) for conversation in self._reading.rows()]
        rows = [row for row in rows if any(label != IGNORED for label in row[1][1:])]
        if not rows:
            raise JobFailed(
                "no_text",
                f"No row of {self._reading.data} has anything for {name} to read. Choose other data.",
            )
        owner, words = self._owners(loaded.model, rows[0]), f"{name} reads {self._reading.data}"
        groups = _groups(self._sizes(loaded.model, owner))
        for place, group in enumerate(groups):
            file = work / f"{number}-{place}.safetensors"
            if not _is_of(file, recipe):
                count = _Count(len(rows) * len(groups), place * len(rows), self._tell, words)
                found = self._find(loaded.model, rows, group, count.one)
                _save(found, owner, group, file, recipe)

    def _owners(self, model: Any, row: Row) -> dict[str, str]:
        """Return for each wanted tensor the one whose statistics it has."""
        if self._kind == "fisher":
            known = {name for name, _ in model.named_parameters()}
            return {name: name for name in self._wanted if name in known}
        fed = {f"{layer}{WEIGHT}": f"{first}{WEIGHT}" for layer, first in shared_inputs(model, row).items()}
        return {name: fed[name] for name in self._wanted if name in fed}

    def _sizes(self, model: Any, owner: Mapping[str, str]) -> dict[str, int]:
        firsts = dict.fromkeys(owner.values())
        if self._kind == "fisher":
            parameters = dict(model.named_parameters())
            return {name: 4 * parameters[name].numel() for name in firsts}
        layers = linear_layers(model)
        return {name: 4 * layers[name.removesuffix(WEIGHT)].in_features ** 2 for name in firsts}

    def _find(
        self, model: Any, rows: Sequence[Row], group: Sequence[str], breathe: Callable[[], None]
    ) -> dict[str, Tensor]:
        if self._kind == "fisher":
            found = fisher_of(model, rows, group, breathe)
        else:
            layers = [name.removesuffix(WEIGHT) for name in group]
            found = {
                f"{layer}{WEIGHT}": gram for layer, gram in grams_of(model, rows, layers, breathe).items()
            }
        if any(not torch.isfinite(one).all() for one in found.values()):
            raise JobFailed(
                "not_finite",
                f"{self._reading.model} answers {self._reading.data} with NaN or infinity, so its weights "
                "are damaged. Make or import it again.",
            )
        return found


class _Count:
    """Counts texts, for the progress."""

    def __init__(self, total: int, done: int, tell: Callable[[str, float], None], words: str) -> None:
        self._total, self._done, self._tell, self._words = total, done, tell, words

    def one(self) -> None:
        """Tell the share that is done, and count one more."""
        self._tell(self._words, self._done / self._total)
        self._done += 1


def _row(conversation: Conversation, loaded: Loaded) -> Row:
    """Turn a row into tokens: by the chat template, its answers labelled, or as plain text."""
    tokenizer, most = loaded.tokenizer, min(MAX_TOKENS, loaded.context)
    if tokenizer.chat_template and tokenizer.is_fast:
        try:
            encoded = encode(conversation, tokenizer, most)
            return encoded.ids, encoded.labels
        except BadInput as error:
            raise JobFailed("template", f"{loaded.name} can't read a row. {error}") from None
    ids = tokenizer.encode("\n".join(turn["content"] for turn in conversation))[:most]
    return ids, ids


def _groups(sizes: Mapping[str, int]) -> list[list[str]]:
    """Divide names so that each group's statistics fit into the bound, unless a single one doesn't."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, own in sizes.items():
        size += own
        if groups[-1] and size > GROUP_BYTES:
            groups.append([])
            size = own
        groups[-1].append(name)
    return [group for group in groups if group]


def _save(
    found: Mapping[str, Tensor], owner: Mapping[str, str], group: Sequence[str], file: Path, recipe: str
) -> None:
    """Write a group's statistics whole or not at all; which tensors share one stands in the metadata."""
    shared = {name: first for name, first in owner.items() if first in set(group)}
    draft = file.with_suffix(".part")
    save_file({name: one.contiguous() for name, one in found.items()}, draft, {"recipe": recipe, **shared})
    draft.rename(file)


def _is_of(file: Path, recipe: str) -> bool:
    try:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {}).get("recipe") == recipe
    except (OSError, SafetensorError):
        return False


def _keys(work: Path, number: int) -> dict[str, tuple[Path, str]]:
    places: dict[str, tuple[Path, str]] = {}
    for file in sorted(work.glob(f"{number}-*.safetensors")):
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
        places |= {name: (file, key) for name, key in facts.items() if name != "recipe"}
    return places


def _text(file: Path) -> str:
    return file.read_text("utf-8") if file.is_file() else ""
