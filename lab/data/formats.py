"""One row of a dataset, in any of the formats people bring, as a conversation.

Alpaca (`instruction`, `input`, `output`), messages (`role`, `content`) and ShareGPT (`from`, `value`)
come in; a list of messages goes out, or the reason why the row can't be trained on. Opens no file.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

Format = Literal["alpaca", "messages", "sharegpt"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Conversation = list[Message]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
ROLES = ("system", "user", "assistant")

CONTROL_MARK = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>|<(?:start|end)_of_turn>")
"""What chat templates put between turns: inside a text it would end the turn or forge another."""

PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


class BadRow(ValueError):
    """A row can't be trained on; the message is the reason, for the person who made the file."""


def format_of(row: Mapping[str, Any]) -> Format:
    """Tell a row's format by its keys.

    Raises:
        BadRow: no known format has these keys.
    """
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "sharegpt"
    if "chosen" in row or "rejected" in row:
        raise BadRow("a preference pair (chosen, rejected); fine-tuning wants one answer a question")
    if "instruction" in row or "output" in row:
        return "alpaca"
    keys = ", ".join(sorted(row)[:6]) or "no keys at all"
    raise BadRow(f"neither instruction and output nor messages; it has {keys[:120]}")


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """Turn a row of any format into a conversation that can be trained on.

    Raises:
        BadRow: keys are missing, values have the wrong type, turns are out of order or empty.
    """
    if row.get("label") is False:
        raise BadRow("labelled as a bad answer (label is false)")
    kind = format_of(row)
    if kind == "alpaca":
        turns = _from_alpaca(row)
    elif kind == "messages":
        turns = _from_messages(row["messages"], "role", "content", {role: role for role in ROLES})
    else:
        turns = _from_messages(row["conversations"], "from", "value", SHAREGPT_ROLES)
        if isinstance(row.get("system"), str) and row["system"].strip():
            turns = [{"role": "system", "content": row["system"]}, *turns]
    _check_order(turns)
    return [{"role": turn["role"], "content": _clean(turn)} for turn in turns]


def flags_of(conversation: Conversation) -> list[str]:
    """Return what is odd about a conversation that may still be trained on, in words."""
    text = "\n".join(turn["content"] for turn in conversation)
    odd = []
    if found := PLACEHOLDER.search(text):
        odd.append(f"has the unfilled placeholder {found.group()}")
    if BIDI.search(text):
        odd.append("has characters that reverse the direction of writing")
    if "Ã©" in text or "â€" in text:
        odd.append("has text that was decoded twice (mojibake)")
    if len(text) > 100_000:
        odd.append(f"is very long ({len(text):,} characters) and will be cut")
    return odd


def _from_alpaca(row: Mapping[str, Any]) -> Conversation:
    if "output" not in row:
        raise BadRow("output is missing")
    if "instruction" not in row:
        raise BadRow("instruction is missing")
    parts = [_text(row, "instruction"), _text(row, "input") if row.get("input") is not None else ""]
    asked = "\n\n".join(part for part in parts if part.strip())
    if not asked:
        raise BadRow("instruction and input are both empty")
    turns: Conversation = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.append({"role": "system", "content": row["system"]})
    for question, answer in _history(row.get("history")):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    answer = _text(row, "output")
    return [*turns, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _history(history: Any) -> list[tuple[str, str]]:
    """Return the earlier turns that some alpaca files carry: a list of [question, answer] pairs."""
    if not history:
        return []
    is_pairs = isinstance(history, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in history
    )
    if not is_pairs:
        raise BadRow("history is not a list of [question, answer] pairs of text")
    return [(question, answer) for question, answer in history]


def _from_messages(turns: Any, role_key: str, text_key: str, roles: Mapping[str, str]) -> Conversation:
    if not isinstance(turns, list):
        raise BadRow(f"the conversation is {_kind(turns)}, not a list of turns")
    if not turns:
        raise BadRow("the conversation is empty")
    conversation: Conversation = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise BadRow(f"turn {number} is {_kind(turn)}, not an object with {role_key} and {text_key}")
        for key in (role_key, text_key):
            if key not in turn:
                raise BadRow(f"turn {number} has no {key}")
        role = roles.get(turn[role_key]) if isinstance(turn[role_key], str) else None
        if role is None:
            raise BadRow(
                f"turn {number} has the role {str(turn[role_key])[:40]!r}; known are {', '.join(roles)}"
            )
        content = _joined(turn[text_key], f"turn {number}: {text_key}")
        conversation.append({"role": role, "content": content})
    return conversation


def _joined(content: Any, where: str) -> str:
    """Return the text of a turn that is text, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"{where} is {_kind(content)}, not text")
    texts = []
    for part in content:
        text = part.get("text", part.get("value")) if isinstance(part, dict) else part
        is_text = not isinstance(part, dict) or part.get("type", "text") == "text"
        if not is_text or not isinstance(text, str):
            raise BadRow(f"{where} has a part that is not text")
        texts.append(text)
    return "".join(texts)


def _check_order(turns: Conversation) -> None:
    """Check that turns go: perhaps system, then user and assistant in turn, the last an answer."""
    said = [turn["role"] for turn in turns]
    if "assistant" not in said:
        raise BadRow("there is no answer (no assistant turn)")
    start = 1 if said[0] == "system" else 0
    for number, role in enumerate(said[start:], start):
        expected = ("user", "assistant")[(number - start) % 2]
        if role != expected:
            raise BadRow(f"turn {number + 1} is from {role} where {expected} should speak")
    if said[-1] != "assistant":
        raise BadRow("it ends with a question; the last turn must be the answer")


def _clean(turn: Message) -> str:
    """Return a turn's text without the end mark that some exports leave behind.

    Raises:
        BadRow: it is empty, or has characters or marks that would harm training.
    """
    text, role = turn["content"], turn["role"]
    while marks := list(CONTROL_MARK.finditer(text)):
        if text[marks[-1].end() :].strip() or marks[-1].group().strip("<|>") != "endoftext":
            raise BadRow(
                f"the {role} text contains {marks[0].group()}, which chat templates use to part turns"
            )
        text = text[: marks[-1].start()].rstrip()
    if "\x00" in text:
        raise BadRow(f"the {role} text contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"the {role} text contains half of a character (a lone surrogate)") from None
    if role != "system" and not text.strip():
        raise BadRow("the answer is empty" if role == "assistant" else "the question is empty")
    return text


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise BadRow(f"{key} is {_kind(row[key])}, not text")
    return row[key]


def _kind(value: Any) -> str:
    """Name a JSON value's type for people."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for types, word in (((int, float), "a number"), (list, "a list"), (dict, "an object")):
        if isinstance(value, types):
            return word
    return "text"
