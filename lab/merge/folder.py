"""What lies beside the weights of a merged model: config, tokenizer, model card and recipe.

Knows Hugging Face's layout; reads no weight.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lab.merge.chat_template import write_template
from lab.merge.plan import MergePlan
from lab.merge.recipe import write_recipe
from lab.merge.spec import MergeSpec
from lab.merge.tokenizer_files import copy_tokenizer, write_tokenizer
from lab.merge.vocabulary import VocabularyPlan

COPIED = ("generation_config.json", "LICENSE")
"""Files that the result takes from the base, or else from the first model, besides the tokenizer's."""

_TOKEN_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer")


def write_companions(
    spec: MergeSpec, plan: MergePlan, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> None:
    """Write everything but the weights into the result's folder; `tell` hears what was chosen."""
    _copy(plan.donor.folder, folder)
    if plan.vocabulary:
        write_tokenizer(plan.vocabulary, plan.vocabulary.models, folder)
        _renumber(folder / COPIED[0], plan.vocabulary)
    else:
        copy_tokenizer(plan.donor.folder, folder)
    write_template(spec.chat_template, plan.folders, folder, tell)
    (folder / "config.json").write_text(json.dumps(config_of(plan), indent=2) + "\n", "utf-8")
    recipe = write_recipe(spec)
    (folder / "mergekit_config.yml").write_text(recipe, "utf-8")
    (folder / "README.md").write_text(card(spec, plan, recipe), "utf-8")


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what stays as it is beside the weights: tokenizer, licence, generation settings."""
    _copy(source, folder)
    copy_tokenizer(source, folder)


def _copy(source: Path, folder: Path) -> None:
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _renumber(file: Path, vocabulary: VocabularyPlan) -> None:
    """Let generation end and pad with the tokens of the tokenizer that the result has."""
    if file.is_file():
        settings = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps(settings | _token_numbers(settings, vocabulary), indent=2) + "\n", "utf-8")


def _token_numbers(settings: Mapping[str, Any], vocabulary: VocabularyPlan) -> dict[str, Any]:
    theirs = vocabulary.donor.raw
    return {key: theirs[key] for key in _TOKEN_NUMBERS if key in theirs and key in settings}


def config_of(plan: MergePlan) -> dict[str, Any]:
    """Return the result's config.json: the donor's, with layers, dtype and tied embeddings set.

    A list with one entry for each layer, such as `layer_types`, is put together from the layers that
    the result is made of.
    """
    config = dict(plan.donor.raw)
    layers = plan.donor.config.layers
    for key, value in config.items():
        if isinstance(value, list) and len(value) == layers and _is_per_layer(key):
            config[key] = [_entry(model.raw, key, layer) for model, layer in plan.layer_origins]
        elif key in _LAYER_COUNTS:
            config[key] = plan.layers
    if plan.vocabulary:
        config |= {"vocab_size": plan.vocab, **_token_numbers(config, plan.vocabulary)}
    config["tie_word_embeddings"] = plan.tied
    config.pop("torch_dtype", None)
    config["dtype"] = plan.dtype
    return config


def card(spec: MergeSpec, plan: MergePlan, recipe: str) -> str:
    """Return the model card: what it was made from and how, with the recipe to make it again."""
    parents = "\n".join(f"- {parent}" for parent in plan.parents)
    return f"""---
library_name: transformers
tags:
- merge
---
# {spec.name}

{spec.title[:1].upper()}{spec.title[1:]}. {plan.size_words}.

The method is `{plan.method.name}` ({plan.method.source}). Arithmetic was float32, rounded once at the end.

## Made from

{parents}

{vocabulary_words(plan.vocabulary)}## Recipe

It is kept beside this file as `mergekit_config.yml`.

```yaml
{recipe}```
"""


def vocabulary_words(plan: VocabularyPlan | None) -> str:
    """Return the card's section on the vocabulary; "" where it is the donor's as it is."""
    if plan is None:
        return ""
    rows = "\n".join(
        f"| {' | '.join(str(getattr(one, column.name)) for column in fields(one))} |" for one in plan.tally
    )
    notes = "".join(f"\n- {note}" for note in plan.notes)
    return f"""## Vocabulary

It starts from the tokenizer of {plan.donor.ref}; tokens added to it: {len(plan.new)}.

| model | tokens | kept | dropped | rows from one other model | rows that are a mean | rows of zeros |
|---|---|---|---|---|---|---|
{rows}
{notes}

"""


def _is_per_layer(key: str) -> bool:
    return key.startswith("layer") or key.endswith(("_layers", "_layer_types", "_pattern"))


def _entry(config: Mapping[str, Any], key: str, layer: int) -> Any:
    values = config.get(key)
    if isinstance(values, list) and layer < len(values):
        return values[layer]
    raise ValueError(f"config.json has no {key!r} for layer {layer}")
