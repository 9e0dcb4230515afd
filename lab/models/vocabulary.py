"""The vocabulary of a model folder: its tokens, their numbers, and what its tokenizer file is.

Reads tokenizer.json and sentencepiece's tokenizer.model as plain data, without a tokenizer library.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.models.config import read_json, refuse_config

TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
TOKENIZER_LIMIT = 64 << 20
"""The longest tokenizer file that we read, in bytes."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces of sentencepiece."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # how a value of a protocol buffer is stored
_PIECES, _TRAINER, _MODEL_TYPE = 1, 2, 3  # numbers of fields of a sentencepiece model
_KINDS = {1: "Unigram", 2: "BPE", 3: "WordLevel", 4: "Char"}


@dataclass(frozen=True)
class Piece:
    """One piece of a sentencepiece model; its number is its place."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model.

    Attributes:
        folder: where its files are.
        file: which file they were read from; "" where the model has no tokenizer.
        kind: the algorithm: "BPE", "Unigram", "WordPiece", "WordLevel".
        ids: every token's number.
        added: of tokens that are matched in the text before the algorithm runs, the flags.
    """

    folder: Path
    file: str
    kind: str
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows an embedding has at least, so that every token has one."""
        return max(self.ids.values(), default=-1) + 1


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a model's vocabulary: from tokenizer.json, else from tokenizer.model.

    Raises:
        BadInput: there is neither, or a file can't be read.
    """
    if (folder / TOKENIZER_JSON).is_file():
        return _from_json(folder)
    if (folder / TOKENIZER_MODEL).is_file():
        return _from_sentencepiece(folder)
    raise BadInput(
        f"{folder.name} has no {TOKENIZER_JSON} and no {TOKENIZER_MODEL}.",
        "Vocabularies are matched by their tokens, which a tokenizer file names.",
        "Copy the file from the model's original folder, or take the tokenizer setting out.",
    )


def read_pieces(file: Path) -> tuple[list[Piece], str]:
    """Return the pieces of a sentencepiece model and its algorithm.

    Raises:
        BadInput: it is no such file.
    """
    if file.stat().st_size > TOKENIZER_LIMIT:
        refuse_config(file, f"it has {file.stat().st_size:,} bytes", f"At most {TOKENIZER_LIMIT:,} are read.")
    pieces, kind = [], _KINDS[1]
    try:
        for number, value in _fields(memoryview(file.read_bytes())):
            if number == _PIECES and isinstance(value, memoryview):
                pieces.append(_piece(value))
            elif number == _TRAINER and isinstance(value, memoryview):
                kind = next((_KINDS[int(v)] for n, v in _fields(value) if n == _MODEL_TYPE), kind)
    except (ValueError, IndexError, KeyError, TypeError, struct.error):
        pieces = []
    if not pieces:
        refuse_config(file, "it is no sentencepiece model", "It holds pieces with their scores.")
    return pieces, kind


def encoded_piece(piece: Piece) -> bytes:
    """Return a piece as bytes that can be appended to a sentencepiece model."""
    text = piece.text.encode()
    inner = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", piece.score)
    inner += b"\x18" + _varint(piece.kind)
    return b"\x0a" + _varint(len(inner)) + inner


def json_vocabulary(raw: Mapping[str, Any], file: Path) -> tuple[str, dict[str, int]]:
    """Return the algorithm of a tokenizer.json and its own tokens, without the added ones.

    Raises:
        BadInput: it has no vocabulary that we know how to read.
    """
    model = raw.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    kind = str(model.get("type") or "BPE") if isinstance(model, dict) else ""
    if isinstance(vocab, dict) and all(type(number) is int for number in vocab.values()):
        return kind, vocab
    if isinstance(vocab, list):  # of a Unigram: pairs of piece and score
        try:
            return "Unigram", {str(piece): place for place, (piece, _) in enumerate(vocab)}
        except (TypeError, ValueError):
            pass
    raise BadInput(
        f"{file.name}: its model has no vocabulary.",
        "It is a tokenizer as the tokenizers library has it.",
        "Take the file from the model's original folder.",
    )


def _from_json(folder: Path) -> Vocabulary:
    file = folder / TOKENIZER_JSON
    raw = read_json(file, TOKENIZER_LIMIT)
    kind, ids = json_vocabulary(raw, file)
    ids, added = dict(ids), {}
    for token in raw.get("added_tokens") or ():
        ids[token["content"]] = int(token["id"])
        added[token["content"]] = _flags(token)
    _add_configured(folder, ids, added)
    return Vocabulary(folder, TOKENIZER_JSON, kind, ids, added)


def _from_sentencepiece(folder: Path) -> Vocabulary:
    pieces, kind = read_pieces(folder / TOKENIZER_MODEL)
    ids: dict[str, int] = {}
    for place, piece in enumerate(pieces):
        ids.setdefault(piece.text, place)
    added = {
        piece.text: {"special": piece.kind == CONTROL, "normalized": False}
        for piece in pieces
        if piece.kind in (CONTROL, USER_DEFINED, UNKNOWN)
    }
    file = folder / "added_tokens.json"
    for token, number in (read_json(file) if file.is_file() else {}).items():
        ids.setdefault(token, int(number))
        added.setdefault(token, {"special": False})
    _add_configured(folder, ids, added)
    return Vocabulary(folder, TOKENIZER_MODEL, kind, ids, added)


def _add_configured(folder: Path, ids: dict[str, int], added: dict[str, dict[str, bool]]) -> None:
    """Add the tokens that only tokenizer_config.json has."""
    file = folder / "tokenizer_config.json"
    settings = read_json(file, TOKENIZER_LIMIT) if file.is_file() else {}
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        content = token.get("content") if isinstance(token, dict) else None
        if isinstance(content, str) and content not in ids and number.isdecimal():
            ids[content] = int(number)
            added[content] = _flags(token)


def _flags(token: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: bool(token[flag]) for flag in FLAGS if flag in token}


def _piece(data: memoryview) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, memoryview):
            text = bytes(value).decode()
        elif number == 2 and isinstance(value, memoryview):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protocol buffer message: its number, and a whole number or raw bytes."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, stored = key >> 3, key & 7
        if stored == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if stored == _LENGTH:
            size, at = _read_varint(data, at)
        elif stored in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if stored == _FOUR_BYTES else 8
        else:
            raise ValueError(f"a value is stored in way {stored}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield number, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
