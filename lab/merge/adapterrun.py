"""Makes an adapter out of adapters, one matrix at a time; never reads a weight of their base.

Arithmetic is float32. A matrix's changes go through the merge method as whole models' would; memory is
one matrix in float32, and none where the factors can be stacked.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import JobFailed
from lab.core.job import Job, NewModel, Outcome
from lab.core.spec import spec_sha256
from lab.merge.adapters import SUMS, AdapterPlan, folds_of
from lab.merge.draws import Draws
from lab.merge.folder import copy_companions
from lab.merge.lowrank import Factors, cut_matrix, cut_product, weighted_stack
from lab.merge.output import Shard, ShardFile, lay_out
from lab.merge.plan import OutputTensor
from lab.merge.reading import ChangeStack, Reader, Scratch
from lab.merge.recipe import write_recipe
from lab.merge.spec import MergeSpec
from lab.models.headers import WEIGHT_FILES
from lab.models.publish import full_disk_is_failure
from lab.models.weights import DTYPES

_PREFIX = "base_model.model."


@dataclass
class Loss:
    """How much of the merged change the chosen rank left out: squared norms, summed over the matrices.

    Attributes:
        lost: what was left out.
        whole: what there was.
        worst: the matrix that lost most, and its relative error.
    """

    lost: float = 0.0
    whole: float = 0.0
    worst: tuple[str, float] = ("", 0.0)

    def add(self, name: str, factors: Factors) -> None:
        """Count one matrix."""
        self.lost += factors.lost
        self.whole += factors.whole
        if factors.whole:
            self.worst = max(self.worst, (name, sqrt(factors.lost / factors.whole)), key=lambda one: one[1])

    @property
    def error(self) -> float:
        """The relative error of all matrices together, |change - kept| / |change|."""
        return sqrt(self.lost / self.whole) if self.whole else 0.0

    @property
    def words(self) -> str:
        """What the rank cost, in a sentence."""
        if not self.lost:
            return "Nothing was cut off: the factors are stacked."
        return (
            f"The rank keeps {1 - self.lost / self.whole:.1%} of the merged change's energy "
            f"(relative error {self.error:.3g}; the most is {self.worst[1]:.3g}, in {self.worst[0]})."
        )


def make_adapter(spec: MergeSpec, plan: AdapterPlan, job: Job) -> Outcome:
    """Merge adapters into one, and leave it in the job's folder, to be published.

    Raises:
        JobFailed: a factor is not finite, the result is too large for its dtype, or the disk is full.
        ControlFlow: the job was cancelled, released or fenced.
    """
    job.note(f"Making {plan.words}.")
    folder, records = job.folder / "merge" / "adapter", job.folder / "merge" / "adapter-done"
    for place in (folder, records):
        place.mkdir(parents=True, exist_ok=True)
    file = ShardFile(_layout(plan), folder, records, spec_sha256(spec))
    with full_disk_is_failure(f"writing {spec.name}"):
        loss = _write(plan, file, job)
        _write_companions(spec, plan, loss, folder)
    job.note(loss.words)
    job.progress(1.0, "Merged", 0.0)
    facts = {"method": plan.method.name, "rank": plan.rank, "relative_error": loss.error}
    new = NewModel(
        spec.name, folder, "adapter", plan.parents, spec.title, facts, {file.shard.file: file.sha256}
    )
    return Outcome((new,), {"model": spec.name, "rank": plan.rank, "relative_error": loss.error})


def merged_factors(plan: AdapterPlan, tensor: OutputTensor, reader: Reader, job: Job) -> Factors:
    """Merge one matrix's changes, and cut the result to the plan's rank."""
    if plan.method.name in SUMS:
        return cut_product(_stacked(plan, tensor, reader), plan.rank)
    change = torch.empty(tensor.elements)
    stack = ChangeStack(tensor, reader, Scratch(len(tensor.inputs)), job.breathe)
    start = 0
    draws = Draws(plan.seed, tensor.name)
    for merged in plan.method.stream(stack, torch.tensor(tensor.weights), tensor.knobs, draws):
        change[start : start + len(merged)] = merged
        start += len(merged)
    generator = torch.Generator().manual_seed(zlib.crc32(tensor.name.encode()))
    return cut_matrix(change.view(tensor.shape), plan.rank, generator)


def _stacked(plan: AdapterPlan, tensor: OutputTensor, reader: Reader) -> Factors:
    """Return the weighted sum of the changes, exactly: a method's factors are its answer to unit changes."""
    weights, folds = torch.tensor(tensor.weights), folds_of(tensor)
    coefficients = plan.method.function(torch.eye(len(folds)), weights, **tensor.knobs).tolist()
    pairs, factors = [], []
    for fold, coefficient in zip(folds, coefficients, strict=True):
        if fold:
            up, down = (reader.flat(one).view(one.shape).float() for one in (fold.up, fold.down))
            pairs.append((_finite(up, tensor), _finite(down, tensor)))
            factors.append(coefficient * fold.scale)
    return weighted_stack(pairs, factors)


def _write(plan: AdapterPlan, file: ShardFile, job: Job) -> Loss:
    """Write every matrix's two factors, in the order of the file."""
    loss, reader = Loss(), Reader()
    file.open()
    try:
        for place, tensor in enumerate(plan.tensors):
            job.breathe()
            job.progress(place / len(plan.tensors), f"{place} of {len(plan.tensors)} matrices")
            factors = merged_factors(plan, tensor, reader, job)
            loss.add(tensor.name, factors)
            padded = factors.padded(plan.rank)
            for half, values in enumerate((padded.down, padded.up)):
                rounded = _finite(values.contiguous().to(DTYPES[tensor.dtype]), tensor)
                file.write(file.shard.starts[2 * place + half], rounded.view(torch.uint8).numpy())
        file.finish()
    finally:
        file.close()
    return loss


def _finite(values: Tensor, tensor: OutputTensor) -> Tensor:
    if not values.isfinite().all():
        raise JobFailed(
            "not_finite",
            f"The change of {tensor.name} holds NaN or infinite values. An adapter was damaged while it was "
            "trained or saved, or the values are too large for float16: choose another one, or float32.",
        )
    return values


def _layout(plan: AdapterPlan) -> Shard:
    """Return the adapter's one file, laid out: for every matrix lora_A, then lora_B."""
    [shard] = lay_out(_factor_tensors(plan), 1 << 62)
    return replace(shard, file=WEIGHT_FILES[1])


def _factor_tensors(plan: AdapterPlan) -> Iterator[OutputTensor]:
    for tensor in plan.tensors:
        module = _PREFIX + tensor.name.removesuffix(".weight")
        rows, columns = tensor.shape
        for half, shape in (("lora_A", (plan.rank, columns)), ("lora_B", (rows, plan.rank))):
            yield replace(tensor, name=f"{module}.{half}.weight", shape=shape)


def _write_companions(spec: MergeSpec, plan: AdapterPlan, loss: Loss, folder: Path) -> None:
    """Write config, tokenizer, recipe and model card beside the factors."""
    source = folds_of(plan.tensors[0])
    donor = next(fold for fold in source if fold).down.file.parent
    copy_companions(donor, folder)
    (folder / "adapter_config.json").write_text(json.dumps(config_of(plan), indent=2) + "\n", "utf-8")
    recipe = write_recipe(spec)
    (folder / "mergekit_config.yml").write_text(recipe, "utf-8")
    (folder / "README.md").write_text(_card(spec, plan, loss, recipe), "utf-8")


def config_of(plan: AdapterPlan) -> dict[str, Any]:
    """Return adapter_config.json: plain LoRA whose scale is one, because alpha is the rank."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": plan.base_ref,
        "r": plan.rank,
        "lora_alpha": plan.rank,
        "lora_dropout": 0.0,
        "target_modules": targets_of([tensor.name for tensor in plan.tensors], plan.donor.tensors),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def targets_of(changed: Sequence[str], every: "Sequence[str] | Any") -> list[str]:
    """Return the changed modules as peft finds them: by their last name where all of that name are meant."""
    changed = [name.removesuffix(".weight") for name in changed]
    short = {name.rsplit(".", 1)[-1] for name in changed}
    meant = {
        name.removesuffix(".weight")
        for name in every
        if name.removesuffix(".weight").rsplit(".", 1)[-1] in short
    }
    return sorted(short) if meant == set(changed) else sorted(changed)


def _card(spec: MergeSpec, plan: AdapterPlan, loss: Loss, recipe: str) -> str:
    """Return the model card: what it was made from, how, and what the rank cost."""
    parents = "\n".join(f"- {parent}" for parent in plan.parents)
    return f"""---
library_name: peft
tags:
- merge
- lora
---
# {spec.name}

{spec.title[:1].upper()}{spec.title[1:]}: {plan.size_words}.

The method is `{plan.method.name}` ({plan.method.source}), on the adapters' changes. {loss.words}

## Made from

{parents}

## Recipe

It is kept beside this file as `mergekit_config.yml`; `result` and `rank` are keys of this lab.

```yaml
{recipe}```
"""
