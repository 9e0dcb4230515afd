"""The tokenizer and the chat template in mergekit's YAML, in and out."""

from collections.abc import Mapping
from typing import Any

from lab.core.errors import BadInput
from lab.merge.tables import Tell, join, model_of, only_known, seen, table_of
from lab.merge.tokens import BASE, UNION, RowOfToken, TokenizerSetting, TokenRule, ZeroRow

TOKENIZER_KEYS = ("source", "tokens", "pad_to_multiple_of")


def read_tokenizer(recipe: Mapping[str, Any], tell: Tell) -> dict[str, Any] | None:
    """Return the fields of the tokenizer's setting, or None where a recipe has none.

    Raises:
        BadInput: it can't be read; names the key's path.
    """
    short, whole = recipe.get("tokenizer_source"), recipe.get("tokenizer")
    if short is not None and whole is not None:
        raise BadInput(
            "The recipe has tokenizer_source and tokenizer.",
            "tokenizer: {source: ...} says the same as tokenizer_source, and more.",
            "Keep one of the two.",
            field="tokenizer_source",
        )
    if short is not None:
        return {"source": model_of(short, "tokenizer_source", tell)}
    if whole is None:
        return None
    table = table_of(whole, "tokenizer")
    only_known(table, TOKENIZER_KEYS, "tokenizer")
    fields: dict[str, Any] = {}
    if table.get("source") is not None:
        fields["source"] = model_of(table["source"], "tokenizer.source", tell)
    if table.get("tokens") is not None:
        fields["tokens"] = _read_rules(table["tokens"], tell)
    if table.get("pad_to_multiple_of") is not None:
        fields["pad_to_multiple_of"] = table["pad_to_multiple_of"]
    return fields


def written_tokenizer(setting: TokenizerSetting) -> dict[str, Any]:
    """Return the key of a recipe that says the same, with its value."""
    if not setting.tokens and setting.pad_to_multiple_of is None:
        return {"tokenizer_source": setting.source}
    table: dict[str, Any] = {"source": setting.source}
    if setting.tokens:
        table["tokens"] = {token: _written_rule(rule) for token, rule in setting.tokens.items()}
    if setting.pad_to_multiple_of is not None:
        table["pad_to_multiple_of"] = setting.pad_to_multiple_of
    return {"tokenizer": table}


def describe(setting: TokenizerSetting) -> str:
    """Say where a tokenizer comes from, as a part of a sentence."""
    return {UNION: "the union of all vocabularies", BASE: "the base's tokenizer"}.get(
        setting.source, f"the tokenizer of {setting.source}"
    )


def _read_rules(value: object, tell: Tell) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    for token, item in table_of(value, "tokenizer.tokens").items():
        path = join("tokenizer.tokens", token)
        rule = table_of({} if item is None else item, path)
        only_known(rule, ("source", "force"), path)
        rules[token] = {key: entry for key, entry in rule.items() if entry is not None}
        if rule.get("source") is not None:
            rules[token]["source"] = _read_row(rule["source"], f"{path}.source", tell)
    return rules


def _read_row(value: object, path: str, tell: Tell) -> object:
    if not isinstance(value, dict) or "kind" not in value:
        return model_of(value, path, tell)
    kind = value["kind"]
    if kind not in ("zero", "model_token"):
        raise BadInput(
            f"{path}.kind is {seen(kind)}.",
            "A row is of kind zero or model_token, or that of a model, by its name.",
            "Choose one of these.",
            field=f"{path}.kind",
        )
    only_known(value, ("kind",) if kind == "zero" else ("kind", "model", "token", "token_id"), path)
    row = {key: entry for key, entry in value.items() if entry is not None}
    return row if kind == "zero" else {**row, "model": model_of(value.get("model"), f"{path}.model", tell)}


def _written_rule(rule: TokenRule) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if isinstance(rule.source, RowOfToken | ZeroRow):
        written["source"] = rule.source.model_dump(exclude_none=True)
    elif rule.source is not None:
        written["source"] = rule.source
    if rule.force:
        written["force"] = True
    return written
