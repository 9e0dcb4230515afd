"""Checked access to a recipe's YAML: tables, lists and known keys, each refusal with its path.

Knows no method; what the keys mean is `recipe.py`'s.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lab.core.errors import BadInput, UnknownName
from lab.merge.reference import Reference

Tell = Callable[[str], None]
"""Is told, in a sentence, what was left out because it changes nothing."""

PathTable = Mapping[str, Any]


def table_of(value: object, path: str) -> dict[str, Any]:
    """Return a table of keys and values.

    Raises:
        BadInput: it is none.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadInput(
            f"{path or 'The recipe'} is {seen(value)}.",
            "It is a table of keys and values.",
            "Look at the indentation.",
            field=path or "recipe",
        )
    return value


def list_of(table: Mapping[str, Any], key: str, path: str) -> list[Any]:
    """Return a list, empty where the key is missing.

    Raises:
        BadInput: it is something else.
    """
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        field = join(path, key)
        raise BadInput(
            f"{field} is {seen(value)}.", "It is a list.", "Start each item with a dash.", field=field
        )
    return value


def only_known(table: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    """Refuse keys that are not known, with the nearest one that is.

    Raises:
        UnknownName: there is one.
    """
    for key in table:
        if key not in known:
            raise UnknownName.among("key", key, known).at(join(path, key))


def model_of(value: object, path: str, tell: Tell) -> str:
    """Return a model reference; mergekit's long form is spelled as its short one.

    Raises:
        BadInput: it is no reference.
    """
    if not isinstance(value, dict):
        return _name(value, path)
    only_known(value, ("model", "lora", "override_architecture"), path)
    if value.get("override_architecture") is not None:
        tell(f"{path}.override_architecture is left out: tensors are found by their names and shapes.")
    model, revision = _pinned(value.get("model"), f"{path}.model")
    adapter, adapter_revision = (
        _pinned(value["lora"], f"{path}.lora") if value.get("lora") is not None else (None, None)
    )
    for name in (model, adapter or "", revision or "", adapter_revision or ""):
        if "+" in name or (name != model and "@" in name) or ("@" in model and (revision or adapter)):
            raise BadInput(
                f"{path} has {name!r}.",
                "In a reference, + comes before an adapter and @ before a revision.",
                "Rename the folder.",
                field=path,
            )
    return str(Reference(model, revision, adapter, adapter_revision))


def join(path: str, key: str) -> str:
    """Return the path of a key."""
    return f"{path}.{key}" if path else key


def seen(value: object) -> str:
    """Say what stands there, shortly."""
    return "empty" if value is None else f"{str(value)[:60]!r}"


def _pinned(value: object, path: str) -> tuple[str, str | None]:
    if not isinstance(value, dict):
        return _name(value, path), None
    only_known(value, ("path", "revision"), path)
    revision = value.get("revision")
    return _name(value.get("path"), f"{path}.path"), (
        None if revision is None else _name(revision, f"{path}.revision")
    )


def _name(value: object, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadInput(
            f"{path} is {seen(value)}.",
            "It is a model's name or folder.",
            "Put quotes around it.",
            field=path,
        )
    return value
