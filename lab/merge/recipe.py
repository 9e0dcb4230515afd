"""mergekit's YAML, in and out: the text that a page takes and gives, and the command line reads.

Knows the language for the methods that we have, and says in a sentence what it can't do.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import yaml

from lab.core.errors import BadInput, UnknownName
from lab.core.plain_yaml import read_yaml
from lab.merge.parameters import Filtered, Setting
from lab.merge.registry import MergeMethod, merge_methods
from lab.merge.spec import MergeSpec, Slice, Source

TOP_KEYS = ("models", "slices", "merge_method", "base_model", "dtype", "out_dtype", "parameters")
OUR_KEYS = ("seed", "result", "rank")
"""Keys of ours: of methods that draw, and whether an adapter comes out, and of what rank."""
MODEL_KEYS = ("model", "parameters")
SOURCE_KEYS = ("model", "layer_range", "parameters")
SLICE_KEYS = ("sources", "base_model", "parameters")

UNSUPPORTED = {
    "modules": "Models of several modules, such as vision with text, can't be merged here.",
    "tokenizer": "Vocabularies are not rebuilt: all models need the same tokenizer.",
    "tokenizer_source": "Vocabularies are not rebuilt: all models need the same tokenizer.",
    "chat_template": "The base's chat template is kept.",
}
"""Keys of mergekit's language that the lab doesn't have, and why."""

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


def read_recipe(text: str, *, name: str, tell: Callable[[str], None] = lambda _: None) -> MergeSpec:
    """Read a recipe in mergekit's YAML.

    Args:
        text: the YAML, up to 256 KiB.
        name: the merged model's name; the language has none.
        tell: is told what was left out because it changes nothing.

    Raises:
        BadInput: the text is no recipe, or asks for what the lab doesn't have; names the key's path.
        ValidationError: a value doesn't fit.
    """
    recipe = _table(_parse(text), "")
    for key, why in UNSUPPORTED.items():
        if key in recipe and recipe[key] is not None:
            raise BadInput(f"The recipe has {key!r}. {why}", "", f"Take {key!r} out.", field=key)
    _known(recipe, (*TOP_KEYS, *OUR_KEYS), "")
    method = _method(recipe)
    fields: dict[str, Any] = {
        key: recipe[key] for key in ("dtype", "out_dtype", *OUR_KEYS) if recipe.get(key) is not None
    }
    if recipe.get("base_model") is not None:
        fields["base_model"] = _model(recipe["base_model"], "base_model")
    return MergeSpec.model_validate(
        {
            **fields,
            "name": name,
            "method": method.name,
            "parameters": _parameters(recipe, "", method, tell),
            "models": [
                _source(item, f"models.{i}", MODEL_KEYS, method, tell)
                for i, item in enumerate(_list(recipe, "models", ""))
            ],
            "slices": [
                _slice(item, f"slices.{i}", method, tell)
                for i, item in enumerate(_list(recipe, "slices", ""))
            ],
        }
    )


def write_recipe(spec: MergeSpec) -> str:
    """Write a merge as mergekit's YAML. The name is left out: the language has none."""
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
    if spec.parameters:
        recipe["parameters"] = _written(spec.parameters)
    if spec.seed:
        recipe["seed"] = spec.seed
    return str(
        yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    )


def _parse(text: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        _refuse(str(error))


def _refuse(why: str) -> NoReturn:
    raise BadInput(
        f"The recipe can't be read: {why}.",
        "A recipe is YAML as mergekit has it, with models or slices and a merge_method.",
        "Mend the text, or start from the form.",
        field="recipe",
    )


def _table(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadInput(
            f"{path or 'The recipe'} is {_seen(value)}.",
            "It is a table of keys and values.",
            "Look at the indentation.",
            field=path or "recipe",
        )
    return value


def _list(table: Mapping[str, Any], key: str, path: str) -> list[Any]:
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        field = _join(path, key)
        raise BadInput(
            f"{field} is {_seen(value)}.", "It is a list.", "Start each item with a dash.", field=field
        )
    return value


def _known(table: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    for key in table:
        if key not in known:
            raise UnknownName.among("key", key, known).at(_join(path, key))


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


def _source(
    item: object, path: str, keys: Iterable[str], method: MergeMethod, tell: Callable[[str], None]
) -> dict[str, Any]:
    table = _table(item, path)
    _known(table, keys, path)
    if "model" not in table:
        raise BadInput(
            f"{path} has no model.", "Each item names its model.", "Add `model:`.", field=f"{path}.model"
        )
    source = {
        "model": _model(table["model"], f"{path}.model"),
        "parameters": _parameters(table, path, method, tell),
    }
    if table.get("layer_range") is not None:
        source["layer_range"] = table["layer_range"]
    return source


def _slice(item: object, path: str, method: MergeMethod, tell: Callable[[str], None]) -> dict[str, Any]:
    table = _table(item, path)
    _known(table, SLICE_KEYS, path)
    sources = _list(table, "sources", path)
    part: dict[str, Any] = {
        "sources": [
            _source(source, f"{path}.sources.{i}", SOURCE_KEYS, method, tell)
            for i, source in enumerate(sources)
        ],
        "parameters": _parameters(table, path, method, tell),
    }
    if table.get("base_model") is not None:
        part["base_model"] = _model(table["base_model"], f"{path}.base_model")
    return part


def _model(value: object, path: str) -> str:
    """Return a model's name or folder; mergekit's long form has it under model.path."""
    if isinstance(value, dict):
        _known(value, ("model",), path)
        inner = _table(value.get("model"), f"{path}.model")
        _known(inner, ("path",), f"{path}.model")
        value = inner.get("path")
    if not isinstance(value, str) or not value:
        raise BadInput(
            f"{path} is {_seen(value)}.",
            "It is a model's name or folder.",
            "Put quotes around it.",
            field=path,
        )
    return value


def _parameters(
    table: Mapping[str, Any], path: str, method: MergeMethod, tell: Callable[[str], None]
) -> dict[str, Any]:
    if table.get("parameters") is None:
        return {}
    field = _join(path, "parameters")
    kept = {}
    for key, value in _table(table["parameters"], field).items():
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
        _known(_table(value, path), ("filter", "value"), path)
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


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _seen(value: object) -> str:
    return "empty" if value is None else f"{str(value)[:60]!r}"
