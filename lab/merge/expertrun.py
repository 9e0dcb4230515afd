"""Runs a mixture of experts: routers, then every tensor streamed into place, and the files beside them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Job, NewModel, Outcome
from lab.core.spec import spec_sha256
from lab.merge.engine import Engine
from lab.merge.expertplan import (
    NAMES,
    ROUTER,
    ExpertsPlan,
    computed_shapes,
    config_of_experts,
    prepare_experts,
)
from lab.merge.expertspec import ExpertsSpec, write_experts
from lab.merge.folder import copy_companions
from lab.merge.gates import degenerate_layers, router_rows
from lab.merge.ingredients import Ingredient
from lab.models.headers import WEIGHT_FILES, read_headers
from lab.models.publish import full_disk_is_failure


def run(spec: ExpertsSpec, job: Job) -> Outcome:
    """Make the mixture and leave it in the job's folder, to be published.

    Where the routers come from hidden states, the base is in memory while the prompts are read; then, as
    in any merge, only a few buffers for each thread are. An attempt after a crash goes on at the next
    unwritten shard.

    Raises:
        JobFailed: a model changed since the job was sent, a weight is not finite, or the disk is full.
        ControlFlow: the job was cancelled, released or fenced.
    """
    try:
        plan = prepare_experts(spec, job)
    except BadInput as error:
        raise JobFailed("models_changed", f"The models no longer fit this mixture. {error}") from error
    job.note(f"Making {plan.words}.")
    rows = router_rows(spec, plan.layers, plan.donor.config.hidden, job)
    _warn(rows, job)
    with full_disk_is_failure(f"making {spec.name}"):
        plan = prepare_experts(spec, job, _router(plan, rows, job.folder / ROUTER))
        engine = Engine(plan, job.folder / "merge", spec_sha256(spec), threads=torch.get_num_threads())
        engine.run(job)
        _write_companions(plan, engine.folder)
    job.progress(1.0, "Merged", 0.0)
    new = NewModel(spec.name, engine.folder, "merge", plan.parents, spec.title, _facts(plan), engine.digests)
    return Outcome((new,), {"model": spec.name, "layers": plan.layers, "parameters": plan.parameters})


def _warn(rows: Tensor, job: Job) -> None:
    """Tell the owner of layers whose experts the router can hardly tell apart."""
    layers = degenerate_layers(rows)
    if not layers:
        return
    named = "all layers" if len(layers) == len(rows) else f"layers {', '.join(map(str, layers))}"
    job.note(
        f"Degenerate routing in {named}: the routers' rows are nearly dependent, so some experts will hardly "
        "be used. Write prompts that differ more.",
        "warning",
    )


def _router(plan: ExpertsPlan, rows: Tensor, folder: Path) -> Ingredient:
    """Write the computed tensors into a folder of their own, so that the engine reads them as a model's."""
    count, names = len(plan.spec.experts), NAMES[plan.layout]
    tensors: dict[str, Tensor] = {}
    for name, shape in computed_shapes(plan.spec, plan.donor, plan.layout).items():
        layer = int(name.split(".")[2])
        if name.endswith(f"{names.block}.gate.weight"):
            tensors[name] = rows[layer, :count].contiguous()
        elif name.endswith("shared_expert_gate.weight"):
            tensors[name] = rows[layer, count:].contiguous()
        else:
            tensors[name] = torch.zeros(shape)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHT_FILES[0])
    return Ingredient(ROUTER, folder, plan.donor.config, {}, read_headers(folder))


def _write_companions(plan: ExpertsPlan, folder: Path) -> None:
    """Write everything but the weights into the result's folder."""
    copy_companions(plan.donor.folder, folder)
    (folder / "config.json").write_text(json.dumps(config_of_experts(plan), indent=2) + "\n", "utf-8")
    recipe = write_experts(plan.spec)
    (folder / "mergekit_moe_config.yml").write_text(recipe, "utf-8")
    (folder / "README.md").write_text(_card(plan, recipe), "utf-8")


def _facts(plan: ExpertsPlan) -> dict[str, object]:
    config = plan.donor.config
    return {
        "architecture": NAMES[plan.layout].architecture,
        "parameters": plan.parameters,
        "layers": plan.layers,
        "hidden": config.hidden,
        "vocab": config.vocab,
        "context": config.context,
        "tied": plan.tied,
        "dtype": plan.dtype,
        "method": "mixture of experts",
    }


def _card(plan: ExpertsPlan, recipe: str) -> str:
    """Return the model card: what it was made from and how."""
    parents = "\n".join(f"- {parent}" for parent in plan.parents)
    spec = plan.spec
    return f"""---
library_name: transformers
tags:
- merge
- moe
---
# {spec.name}

{spec.title[:1].upper()}{spec.title[1:]}. {plan.size_words}.

Attention, embeddings and norms are those of {spec.base_model}; the routers were made with `{spec.gate_mode}`
and not trained.

## Made from

{parents}

## Recipe

It is kept beside this file as `mergekit_moe_config.yml`.

```yaml
{recipe}```
"""
