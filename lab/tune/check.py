"""What is checked before a fine-tune is queued, from headers, configs and the dataset's own lines.

Returns an estimate for the page. Imports no training library and loads no tokenizer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need, Way, mildest
from lab.data.reading import lines_of
from lab.data.split import held_out_count
from lab.models.config import is_adapter, read_adapter_config, read_json, read_model_config
from lab.models.headers import read_headers
from lab.tune.plan import FULLEST, Plan, Weight, fit_memory, length_limit, make_plan, memory_bytes
from lab.tune.registry import tune_methods
from lab.tune.spec import TuneSpec

BYTES_PER_TOKEN = 4
"""Of UTF-8 text, about, for tokenizers of today."""

TEMPLATE_TOKENS = 30
"""What a chat template adds to a row, about."""

CPU_WEIGHTS_PER_SECOND = 3e10
"""Tokens a second times parameters, on two CPU cores in bfloat16; a GPU is a hundred times faster."""

DISK_SPARE = 64 * 2**20


@dataclass(frozen=True)
class Estimate:
    """What a fine-tune will take, before it has begun.

    Attributes:
        plan: its numbers; the worker settles them anew from the true token counts.
        tokens: tokens seen in all.
        minutes: on two CPU cores, roughly; far less on a GPU.
        memory_bytes, disk_bytes: needed at the peak.
        trained: weights that are trained.
        words: all that as a sentence.
        ways: changes of the form that need less memory.
        devices: how many train together; `memory_bytes` is what each needs.
    """

    plan: Plan
    tokens: int
    minutes: float
    memory_bytes: int
    disk_bytes: int
    trained: int
    words: str
    ways: tuple[Way, ...] = ()
    devices: int = 1

    @property
    def need(self) -> Need:
        """What the job needs of each of its devices, and what would make it smaller."""
        return Need(self.memory_bytes, self.ways, devices=self.devices)


def check(spec: TuneSpec, shelf: Shelf) -> Estimate:
    """Check that a fine-tune can work and estimate what it takes.

    Raises:
        BadInput: the model, the dataset, a length, memory or disk won't do; the field is named.
    """
    folder = shelf.model(spec.model)
    _refuse_adapter(folder, spec.model)
    weight = _weight_of(folder)
    _check_chat_template(folder, spec.model)
    _check_width(spec, weight)
    _check_devices(spec, shelf.devices_together())
    lengths = _lengths_in(shelf.dataset(spec.dataset), spec.dataset)
    _check_context(spec, weight)
    estimate = _estimate(spec, weight, lengths, shelf.memory_bytes())
    _check_memory(estimate, shelf.memory_bytes())
    _check_disk(estimate, shelf.free_disk_bytes())
    return estimate


def _refuse_adapter(folder: Path, name: str) -> None:
    if is_adapter(folder):
        base = read_adapter_config(folder).base
        raise BadInput(
            f"{name} is an adapter.",
            "A fine-tune starts from a full model.",
            f"Choose its base {base}, or a full model made from it.",
            field="model",
        )


def _weight_of(folder: Path) -> Weight:
    try:
        config = read_model_config(folder)
        parameters = sum(tensor.elements for tensor in read_headers(folder).values())
    except BadInput as error:
        raise error.at("model") from None
    if config.quantisation:
        seen = f"{folder.name} is quantised ({config.quantisation})."
        raise BadInput(
            seen, "A fine-tune starts from plain weights.", "Choose the model it came from.", field="model"
        )
    return Weight(config, parameters, 2)


def _check_chat_template(folder: Path, name: str) -> None:
    if (folder / "chat_template.jinja").is_file():
        return
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and read_json(settings).get("chat_template"):
        return
    raise BadInput(
        f"{name} has no chat template.",
        "Fine-tuning writes conversations the way the model was taught to read them.",
        "Choose an instruct or chat model.",
        field="model",
    )


def _check_width(spec: TuneSpec, weight: Weight) -> None:
    least = tune_methods[spec.method].least_hidden
    if weight.config.hidden < least:
        seen = f"{spec.model} is {weight.config.hidden} wide."
        raise BadInput(seen, f"{spec.method} needs {least} at least.", "Choose lora instead.", field="method")
    if spec.rank > weight.config.hidden:
        seen = f"The rank is {spec.rank} but {spec.model} is only {weight.config.hidden} wide."
        raise BadInput(seen, "A rank is far smaller than the width.", "Try 16.", field="rank")


def _check_devices(spec: TuneSpec, together: int) -> None:
    if spec.devices > together:
        raise BadInput(
            f"This wants {spec.devices} devices at once.",
            f"{'One is' if together == 1 else f'{together} are'} all that a job can have here.",
            f"Choose {together}." if together > 1 else "Leave it at 1.",
            field="devices",
        )


def _check_context(spec: TuneSpec, weight: Weight) -> None:
    context = weight.config.context
    if spec.max_length is not None and context and spec.max_length > context:
        seen = f"The rows may have {spec.max_length:,} tokens but {spec.model} was made for {context:,}."
        raise BadInput(seen, "", f"Choose {context:,} or fewer, or leave it empty.", field="max_length")


def _lengths_in(path: Path, name: str) -> tuple[int, ...]:
    stat = path.stat() if path.is_file() else None
    lengths = _lengths(path, stat.st_mtime_ns if stat else 0)
    if not lengths:
        seen = f"The dataset {name} has no row to learn from."
        raise BadInput(seen, "At least one good row is needed.", "Choose another dataset.", field="dataset")
    return lengths


@lru_cache(maxsize=8)
def _lengths(path: Path, _changed: int) -> tuple[int, ...]:
    """Return the rows' lengths in tokens, about. Kept, because a form asks at every change."""
    try:
        return tuple(
            TEMPLATE_TOKENS
            + sum(len(turn["content"].encode()) for turn in line.conversation) // BYTES_PER_TOKEN
            for line in lines_of(path)
            if line.conversation is not None
        )
    except BadInput as error:
        raise error.at("dataset") from None


def _estimate(spec: TuneSpec, weight: Weight, lengths: tuple[int, ...], memory: int) -> Estimate:
    held_out = held_out_count(len(lengths)) if spec.held_out is None else min(spec.held_out, len(lengths) - 1)
    length, method = length_limit(spec, lengths, weight.config.context), tune_methods[spec.method]
    fit = fit_memory(spec, weight, method, length, memory)
    plan = make_plan(spec, len(lengths) - held_out, held_out, length, fit)
    mean = sum(min(tokens, length) for tokens in lengths) / len(lengths)
    evaluations = plan.steps // plan.eval_every if plan.eval_every else 1
    tokens = int(plan.steps * spec.batch * mean)
    effort = tokens + evaluations * held_out * mean / 3  # an evaluation is a third of a step
    trained = weight.lora(spec.rank)
    need = memory_bytes(
        weight,
        method,
        spec.rank,
        plan.micro_batch * length,
        checkpointing=plan.checkpointing,
        devices=spec.devices,
    )
    if spec.full_model:
        need = max(need, weight.parameters * 6)  # folded in float32, saved in half of that
    disk = 2 * 12 * trained + 4 * trained + (weight.parameters * 2 if spec.full_model else 0) + DISK_SPARE
    minutes = effort * weight.parameters / CPU_WEIGHTS_PER_SECOND / 60
    words = (
        f"{plan.steps:,} steps of {spec.batch} rows, about {tokens:,} tokens, {trained / 1e6:.1f} M trained "
        f"weights, {need / 2**30:.1f} GB of memory{_each(spec)}, {_minutes(minutes)} on two CPU cores."
    )
    ways = _ways_to_fit(spec, weight, length, need)
    return Estimate(plan, tokens, minutes, need, disk, trained, words, ways, spec.devices)


def _each(spec: TuneSpec) -> str:
    return f" on each of {spec.devices} devices" if spec.devices > 1 else ""


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "under a minute"
    return f"about {math.ceil(minutes)} minutes" if minutes < 120 else f"about {minutes / 60:.0f} hours"


def _check_memory(estimate: Estimate, memory: int) -> None:
    if estimate.memory_bytes > memory:
        raise estimate.need.too_large_for(memory, "The largest device here")


def _ways_to_fit(spec: TuneSpec, weight: Weight, length: int, need: int) -> tuple[Way, ...]:
    """Return changes of the form that need less memory, of each sort the mildest first."""
    ways = (
        Way(sort, words, _least_need(spec.model_copy(update=change), weight, length))
        for sort, words, change in _changes(spec, length)
    )
    smaller = (
        Way("model", f"a model of {words} the size", _least_need(spec, weight.divided_by(parts), length))
        for words, parts in (("half", 2), ("a quarter of", 4), ("an eighth of", 8))
    )
    return mildest((*ways, *smaller), need)


def _changes(spec: TuneSpec, length: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield sort, words and values of what may be changed in a form: one field, then method and a field."""
    simple = [
        *(
            ("rows", _rows_words(size, spec.batch), {"micro_batch": size})
            for size in (4, 2, 1)
            if spec.batch % (size * spec.devices) == 0 and size < (spec.micro_batch or 1)
        ),
        *(
            ("length", f"rows of at most {cut} tokens", {"max_length": cut})
            for cut in (1024, 512, 256, 128)
            if cut < length
        ),
        *(("rank", f"a rank of {rank}", {"rank": rank}) for rank in (64, 16, 8) if rank < spec.rank),
        *((("full", "no full model", {"full_model": False}),) if spec.full_model else ()),
    ]
    yield from simple
    if spec.method == "qlora" or spec.devices > 1:
        return
    yield "method", "method qlora", {"method": "qlora"}
    for sort, words, change in simple:
        yield f"qlora and {sort}", f"method qlora with {words}", {"method": "qlora", **change}


def _rows_words(size: int, batch: int) -> str:
    return f"a micro-batch of {size}, gathered {batch // size} times to the batch of {batch}"


def _least_need(spec: TuneSpec, weight: Weight, length: int) -> int:
    """Return what the smallest plan of a spec needs, with a tenth of the device left free."""
    return math.ceil(_need(spec, weight, min(spec.max_length or length, length), 0) / FULLEST)


def _need(spec: TuneSpec, weight: Weight, length: int, memory: int) -> int:
    method = tune_methods[spec.method]
    size, checkpointing = fit_memory(spec, weight, method, length, memory)
    need = memory_bytes(
        weight, method, spec.rank, size * length, checkpointing=checkpointing, devices=spec.devices
    )
    return max(need, weight.parameters * 6) if spec.full_model else need


def _check_disk(estimate: Estimate, free: int) -> None:
    if estimate.disk_bytes * 1.2 > free:
        raise BadInput(
            f"This writes about {estimate.disk_bytes / 2**20:,.0f} MB.",
            f"Only {free / 2**20:,.0f} MB are free on the lab's disk.",
            "Delete models that nobody needs, or make no full model.",
            field="name",
        )
