"""A recipe of several documents: merges with a name that later ones are made from, in a working order.

Knows that a document names models; what else it says is `recipe.py`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml

from lab.core.errors import BadInput
from lab.core.plain_yaml import read_yaml_documents
from lab.merge.reference import parse
from lab.merge.tables import Tell, seen, table_of

MOST_DOCUMENTS = 32


@dataclass(frozen=True)
class Document:
    """One merge of a recipe.

    Attributes:
        name: what others call it; "" for the result.
        table: its keys and values, without the name.
    """

    name: str
    table: Mapping[str, Any]

    def teller(self, tell: Tell) -> Tell:
        """Return what tells of this document, by its name."""
        return lambda words: tell(f"{self.name}: {words}")


def read_documents(text: str) -> list[Document]:
    """Read a recipe's documents.

    Raises:
        BadInput: the text is no YAML, or one of them no table.
    """
    try:
        tables = read_yaml_documents(text)
    except ValueError as error:
        raise BadInput(
            f"The recipe can't be read: {error}.",
            "A recipe is YAML as mergekit has it, with models or slices and a merge_method.",
            "Mend the text, or start from the form.",
            field="recipe",
        ) from None
    if len(tables) > MOST_DOCUMENTS:
        raise BadInput(
            f"The recipe has {len(tables)} documents.",
            f"At most {MOST_DOCUMENTS} are read.",
            "Divide it.",
            field="recipe",
        )
    return [_document(table) for table in tables or [None]]


def in_order(documents: Sequence[Document], tell: Tell) -> list[Document]:
    """Return the documents in an order in which each finds made what it names, the result last.

    Raises:
        BadInput: they don't make one result, or name each other in a circle.
    """
    if len(documents) == 1:
        (only,) = documents
        if only.name:
            tell("name is left out: a recipe of one document names its result beside the text.")
        return [Document("", only.table)]
    names = [document.name for document in documents]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(
                f"{names.count(name)} documents have {f'the name {name!r}' if name else 'no name'}.",
                "Every document but the result has a name of its own.",
                "Name them apart.",
                field="name",
            )
    needs = {document.name: _needed(document, names) for document in documents}
    result = _result(needs)
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " needs ".join(error.args[1][::-1])
        raise BadInput(
            f"The documents need each other: {circle}.",
            "A merge is made from models that are there before it.",
            "Let one of them name a model of the lab instead.",
            field="name",
        ) from None
    by_name = {document.name: document for document in documents}
    return [by_name[name] for name in [*(name for name in order if name != result), result]]


def write_documents(tables: Sequence[Mapping[str, Any]]) -> str:
    """Write tables as YAML documents."""
    return str(
        yaml.dump_all(
            tables,
            Dumper=_Dumper,
            sort_keys=False,
            default_flow_style=None,
            allow_unicode=True,
            width=100,
        )
    )


def _document(table: Any) -> Document:
    fields = dict(table_of(table, ""))
    name = fields.pop("name", None)
    if name is not None and (not isinstance(name, str) or not name):
        raise BadInput(f"name is {seen(name)}.", "It is a text.", "Put quotes around it.", field="name")
    return Document(name or "", fields)


def _needed(document: Document, names: Sequence[str]) -> list[str]:
    """Return the documents that one is made from, each once."""
    found = {name for text in _texts(document.table) for name in parse(text).names}
    return [name for name in names if name and name in found]


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts that stand where a recipe names models."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("model", "base_model", "path", "lora", "source", "tokenizer_source") and isinstance(
                inner, str
            ):
                yield inner
            elif key not in ("parameters", "chat_template"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _result(needs: Mapping[str, Sequence[str]]) -> str:
    """Return the one document that no other needs; it is the one without a name where there is one."""
    used = {name for needed in needs.values() for name in needed}
    ends = [name for name in needs if name not in used]
    if len(ends) > 1:
        listed = ", ".join(repr(name) if name else "the one without a name" for name in ends)
        raise BadInput(
            f"No other document needs {listed}.",
            "A recipe makes one result; every other document is a step on the way to it.",
            "Take out what isn't needed, or make a recipe of its own of it.",
            field="name",
        )
    return ends[0] if ends else next(iter(needs))


class _Dumper(yaml.SafeDumper):
    """Writes plain values; text of several lines as it stands."""

    def ignore_aliases(self, _data: object) -> bool:
        """Write values that stand twice twice: anchors are not read."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
