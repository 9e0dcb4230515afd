"""YAML that somebody pasted or wrote to a file: plain values, nothing else of the language.

Aliases, tags, dates and keys given twice are not read, so a small text can't become a large value and
a typing mistake can't hide another.
"""

from collections.abc import Callable, Collection, Hashable
from typing import Any

import yaml

from lab.core.errors import BadInput, UnknownName

MOST_BYTES = 256 << 10


def read_yaml(text: str) -> Any:
    """Read a YAML text of plain values, up to 256 KiB.

    Raises:
        ValueError: it is no such text; the message says why and where, as a part of a sentence.
    """
    return _loaded(text, lambda: yaml.load(text, _Loader))  # noqa: S506  it is a safe loader, made stricter


def read_settings(text: str, known: Collection[str], *, of: str, expected: str, do: str) -> dict[str, Any]:
    """Read a YAML table of settings, none of them misspelt.

    Args:
        text: the YAML.
        known: the settings that there are.
        of: what they are settings of, as in "a fine-tune".
        expected: what the text should hold, in a sentence.
        do: what to do where it doesn't, in a sentence.

    Raises:
        BadInput: it is no such table; a misspelt key is named with the nearest known one.
    """
    try:
        table = read_yaml(text)
    except ValueError as error:
        raise BadInput(f"The recipe of {of} can't be read: {error}.", expected, do) from None
    if not isinstance(table, dict):
        raise BadInput(f"The recipe of {of} holds no table of settings.", expected, do)
    for key in table:
        if key not in known:
            raise UnknownName.among(f"setting of {of}", str(key), known).at(str(key))
    return table


def read_yaml_documents(text: str) -> list[Any]:
    """Read the documents of a YAML text, divided by lines of ---; empty ones are left out.

    Raises:
        ValueError: as `read_yaml`.
    """
    documents = _loaded(text, lambda: list(yaml.load_all(text, _Loader)))
    return [document for document in documents if document is not None]


def _loaded(text: str, load: Callable[[], Any]) -> Any:
    size = len(text.encode("utf-8", "replace"))
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {MOST_BYTES:,} are read")
    try:
        return load()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{error.problem}{f', line {mark.line + 1}' if mark else ''}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Unread(yaml.MarkedYAMLError):
    """Something that YAML has and recipes haven't."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """A loader of plain values: no aliases, no tags, no key twice, no dates."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Unread("anchors (&) and aliases (*) are not read", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _Unread("tags (!) are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise _Unread(f"the key {key!r} appears twice", mark)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
