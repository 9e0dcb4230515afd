"""mergekit's YAML, in and out: the text that a page takes and gives, and the command line reads.

Knows the language for the methods that we have, and says in a sentence what it can't do.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lab.core.errors import BadInput, UnknownName
from lab.merge.documents import in_order, read_documents, write_documents
from lab.merge.parameters import Filtered, Setting, over
from lab.merge.recipe_tokenizer import read_tokenizer, written_tokenizer
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.spec import MergeSpec, Slice, Source
from lab.merge.tables import Tell, join, list_of, model_of, only_known, table_of

TOP_KEYS = (
    *("models", "slices", "modules", "merge_method", "base_model", "dtype", "out_dtype", "parameters"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)
OUR_KEYS = ("seed", "result", "rank")
"""Keys of ours: of methods that draw, and whether an adapter comes out, and of what rank."""

MODULE_KEYS = ("models", "slices", "parameters")
THE_MODULE = "default"
"""What mergekit calls the one module of a language model."""
MODEL_KEYS = ("model", "parameters")
SOURCE_KEYS = ("model", "layer_range", "parameters")
SLICE_KEYS = ("sources", "base_model", "parameters", "residual_weight")

_SPARSE = (
    *("task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties"),
    *("della", "della_linear"),
)

NO_EFFECT = {
    "int8_mask": (*_SPARSE, "sce"),
    "density": ("task_arithmetic",),
    "rescale": ("task_arithmetic",),
}
"""Parameters that change nothing in mergekit either, and the methods that it has them for."""

OURS = {"rescale_by": "norm"}
"""Knobs that mergekit's methods don't have, and their value that does what mergekit does: not written."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_recipe(
    text: str, *, name: str, tell: Tell = lambda _: None, keep_intermediates: bool = False
) -> MergeSpec:
    """Read a recipe in mergekit's YAML; of several documents, the one without a name is the result.

    Args:
        text: the YAML, up to 256 KiB.
        name: the merged model's name; the language has none.
        tell: is told what was left out because it changes nothing.
        keep_intermediates: whether the catalog lists the named merges on the way too.

    Raises:
        BadInput: the text is no recipe, or asks for what the lab doesn't have; names the key's path.
        ValidationError: a value doesn't fit.
    """
    *steps, last = in_order(read_documents(text), tell)
    intermediates = [_fields(step.table, step.name, step.teller(tell)) for step in steps]
    return MergeSpec.model_validate(
        {
            **_fields(last.table, name, tell),
            "intermediates": intermediates,
            "keep_intermediates": keep_intermediates,
        }
    )


def write_recipe(spec: MergeSpec) -> str:
    """Write a merge as mergekit's YAML. The result's name is left out: the language has none."""
    steps = [{"name": step.name, **_recipe_of(step)} for step in spec.intermediates]
    return write_documents([*steps, _recipe_of(spec)])


def _fields(recipe: Mapping[str, Any], name: str, tell: Tell) -> dict[str, Any]:
    """Return the fields of one document's spec."""
    only_known(recipe, (*TOP_KEYS, *OUR_KEYS), "")
    method = _method(recipe)
    module, path = _module(recipe)
    optional = {
        "dtype": recipe.get("dtype"),
        "out_dtype": recipe.get("out_dtype"),
        "chat_template": recipe.get("chat_template"),
        "tokenizer": read_tokenizer(recipe, tell),
        **{key: recipe.get(key) for key in OUR_KEYS},
    }
    if recipe.get("base_model") is not None:
        optional["base_model"] = model_of(recipe["base_model"], "base_model", tell)
    parameters = _parameters(recipe, "", method, tell)
    if module is not recipe:
        parameters = over(_parameters(module, path, method, tell), parameters)
    return {
        **{key: value for key, value in optional.items() if value is not None},
        "name": name,
        "method": method.name,
        "parameters": parameters,
        "models": [
            _source(item, join(path, f"models.{i}"), MODEL_KEYS, method, tell)
            for i, item in enumerate(list_of(module, "models", path))
        ],
        "slices": [
            _slice(item, join(path, f"slices.{i}"), method, tell)
            for i, item in enumerate(list_of(module, "slices", path))
        ],
    }


def _module(recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return where models or slices stand, and its path: in the recipe itself or in its one module."""
    if recipe.get("modules") is None:
        return recipe, ""
    modules = table_of(recipe["modules"], "modules")
    if list(modules) != [THE_MODULE]:
        raise BadInput(
            f"The recipe has the modules {', '.join(modules) or 'none'}.",
            f"The lab merges language models, which have one module, {THE_MODULE!r}; models of several, such "
            "as vision with text, can't be merged here.",
            f"Keep one module and call it {THE_MODULE!r}, or give models or slices without modules.",
            field="modules",
        )
    if recipe.get("models") is not None or recipe.get("slices") is not None:
        raise BadInput(
            "The recipe has modules beside models or slices.",
            "It has one of the three.",
            "Take the others out.",
            field="modules",
        )
    path = f"modules.{THE_MODULE}"
    module = table_of(modules[THE_MODULE], path)
    only_known(module, MODULE_KEYS, path)
    return module, path


def _recipe_of(spec: MergeSpec) -> dict[str, Any]:
    recipe: dict[str, Any] = {}
    if spec.models:
        recipe["models"] = [_written_source(source) for source in spec.models]
    else:
        recipe["slices"] = [_written_slice(part) for part in spec.slices]
    recipe["merge_method"] = spec.method
    for key in ("base_model", "dtype", "out_dtype"):
        if (value := getattr(spec, key)) is not None:
            recipe[key] = value
    if spec.result == "adapter":
        recipe |= {key: value for key in ("result", "rank") if (value := getattr(spec, key)) is not None}
    if spec.tokenizer is not None:
        recipe |= written_tokenizer(spec.tokenizer)
    if spec.chat_template is not None:
        recipe["chat_template"] = spec.chat_template
    if spec.parameters:
        recipe["parameters"] = _written(spec.parameters)
    if spec.seed:
        recipe["seed"] = spec.seed
    return recipe


def _method(recipe: Mapping[str, Any]) -> MergeMethod:
    name = recipe.get("merge_method")
    if not isinstance(name, str):
        raise BadInput(
            "The recipe has no merge_method.",
            f"Known: {', '.join(merge_methods)}.",
            "Name one.",
            field="merge_method",
        )
    try:
        return merge_methods[name]
    except UnknownName as error:
        raise error.at("merge_method") from None


def _source(item: object, path: str, keys: Iterable[str], method: MergeMethod, tell: Tell) -> dict[str, Any]:
    table = table_of(item, path)
    only_known(table, keys, path)
    if "model" not in table:
        raise BadInput(
            f"{path} has no model.", "Each item names its model.", "Add `model:`.", field=f"{path}.model"
        )
    source = {
        "model": model_of(table["model"], f"{path}.model", tell),
        "parameters": _parameters(table, path, method, tell),
    }
    if table.get("layer_range") is not None:
        source["layer_range"] = table["layer_range"]
    return source


def _slice(item: object, path: str, method: MergeMethod, tell: Tell) -> dict[str, Any]:
    table = table_of(item, path)
    only_known(table, SLICE_KEYS, path)
    sources = list_of(table, "sources", path)
    if table.get("residual_weight") is not None:
        tell(f"{path}.residual_weight is left out: mergekit reads it and does nothing with it.")
    part: dict[str, Any] = {
        "sources": [
            _source(source, f"{path}.sources.{i}", SOURCE_KEYS, method, tell)
            for i, source in enumerate(sources)
        ],
        "parameters": _parameters(table, path, method, tell),
    }
    if table.get("base_model") is not None:
        part["base_model"] = model_of(table["base_model"], f"{path}.base_model", tell)
    return part


def _parameters(table: Mapping[str, Any], path: str, method: MergeMethod, tell: Tell) -> dict[str, Any]:
    if table.get("parameters") is None:
        return {}
    field = join(path, "parameters")
    kept = {}
    for key, value in table_of(table["parameters"], field).items():
        if key not in method.parameters and method.name in NO_EFFECT.get(key, ()):
            tell(f"{field}.{key} is left out: it has no effect on the result of {method.name}.")
        elif key not in method.parameters:
            raise UnknownName.among(f"parameter of {method.name}", key, method.parameters).at(
                f"{field}.{key}"
            )
        else:
            kept[key] = _value(value, f"{field}.{key}")
    return kept


def _value(value: object, path: str) -> object:
    """Return a parameter's value with numbers as numbers: YAML reads 1e-5 as a text."""
    if isinstance(value, list):
        return [_value(item, f"{path}.{i}") for i, item in enumerate(value)]
    if isinstance(value, dict):
        only_known(table_of(value, path), ("filter", "value"), path)
        return {
            key: item if key == "filter" else _value(item, f"{path}.value") for key, item in value.items()
        }
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _written_source(source: Source) -> dict[str, Any]:
    item: dict[str, Any] = {"model": source.model}
    if source.layer_range is not None:
        item["layer_range"] = list(source.layer_range)
    if source.parameters:
        item["parameters"] = _written(source.parameters)
    return item


def _written_slice(part: Slice) -> dict[str, Any]:
    item: dict[str, Any] = {"sources": [_written_source(source) for source in part.sources]}
    if part.base_model is not None:
        item["base_model"] = part.base_model
    if part.parameters:
        item["parameters"] = _written(part.parameters)
    return item


def _written(parameters: Mapping[str, Setting]) -> dict[str, Any]:
    return {name: _plain(setting) for name, setting in parameters.items() if OURS.get(name) != setting}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Filtered):
        filtered = {} if value.filter is None else {"filter": value.filter}
        return {**filtered, "value": _plain(value.value)}
    return value
