"""Tokenizer files of a result: copied from one model, and extended by what the union adds.

New normal tokens stay normal: with BPE they come with the merges that make them, ranked after those of
the tokenizer that they are added to; with Unigram and sentencepiece with their score. Every token's
number is written into the algorithm's own vocabulary, because loaders number added tokens themselves.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.merge.ingredients import Ingredient
from lab.merge.vocabulary import VocabularyPlan
from lab.models.config import read_json
from lab.models.vocabulary import (
    CONTROL,
    FLAGS,
    NORMAL,
    TOKENIZER_JSON,
    TOKENIZER_LIMIT,
    TOKENIZER_MODEL,
    UNUSED,
    USER_DEFINED,
    Piece,
    encoded_piece,
    json_vocabulary,
    read_pieces,
)

SETTINGS = "tokenizer_config.json"
ANY_WAY = ("special_tokens_map.json", "chat_template.jinja")
UNCHANGED = (TOKENIZER_JSON, TOKENIZER_MODEL, SETTINGS, "added_tokens.json", "vocab.json", "merges.txt")
"""Files that are copied where nothing is added; the last three would be out of date where something is."""

_UNLIKELY = -1e4  # of pieces that stand for numbers only; the algorithm never chooses them


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy a model's tokenizer files as they are."""
    for name in (*UNCHANGED, *ANY_WAY):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def write_tokenizer(plan: VocabularyPlan, models: Mapping[str, Ingredient], target: Path) -> None:
    """Write the tokenizer of a result.

    Args:
        plan: its vocabulary.
        models: the models of the merge, by reference, for the merges and scores of new tokens.
        target: the result's folder.
    """
    folder = plan.donor.folder
    if not plan.new:
        copy_tokenizer(folder, target)
        return
    for name in ANY_WAY:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if (folder / TOKENIZER_JSON).is_file():
        raw = read_json(folder / TOKENIZER_JSON, TOKENIZER_LIMIT)
        text = json.dumps(extended_json(raw, plan, models), ensure_ascii=False)
        (target / TOKENIZER_JSON).write_text(text, "utf-8")
    if (folder / TOKENIZER_MODEL).is_file():
        file = folder / TOKENIZER_MODEL
        more = b"".join(encoded_piece(piece) for piece in _new_pieces(file, plan, models))
        (target / TOKENIZER_MODEL).write_bytes(file.read_bytes() + more)
    settings = read_json(folder / SETTINGS, TOKENIZER_LIMIT) if (folder / SETTINGS).is_file() else {}
    text = json.dumps(_settings(settings, plan), ensure_ascii=False, indent=2)
    (target / SETTINGS).write_text(text + "\n", "utf-8")


def extended_json(
    raw: dict[str, Any], plan: VocabularyPlan, models: Mapping[str, Ingredient]
) -> dict[str, Any]:
    """Return a tokenizer.json with the new tokens in it.

    Args:
        raw: the tokenizer.json that it starts from.
        plan: the vocabulary.
        models: the models of the merge, by reference.
    """
    model = dict(raw["model"])
    kind, known = json_vocabulary(raw, plan.donor.folder / TOKENIZER_JSON)
    outside = [(text, number) for text, number in plan.vocabulary.ids.items() if text not in known]
    if kind == "Unigram":
        model["vocab"] = _longer_list(model["vocab"], outside, _scores(plan, models))
    else:
        model["vocab"] = {**known, **dict(outside)}
    if kind == "BPE":
        model["merges"] = [*model.get("merges", ()), *_new_merges(plan, models, model.get("merges") or ())]
    entries = [
        {"id": token.number, "content": token.text, **_all_flags(token.flags)}
        for token in plan.new
        if token.flags is not None
    ]
    return {**raw, "model": model, "added_tokens": [*(raw.get("added_tokens") or ()), *entries]}


def _new_merges(
    plan: VocabularyPlan, models: Mapping[str, Ingredient], old: Sequence[Any]
) -> Iterator[list[str] | str]:
    """Yield the merges that make the new normal tokens, in the spelling of the old ones."""
    is_text = bool(old) and isinstance(old[0], str)
    for ref, tokens in _by_model(plan):
        for left, right in _merges_of(models[ref].folder, tokens, plan.vocabulary.ids):
            yield f"{left} {right}" if is_text else [left, right]


def _merges_of(folder: Path, tokens: set[str], ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the merges of a model that end in one of the tokens, both parts being in the vocabulary.

    Of a tokenizer without merges, every way to divide a token in two is one.
    """
    file = folder / TOKENIZER_JSON
    raw = read_json(file, TOKENIZER_LIMIT)["model"] if file.is_file() else {}
    if raw.get("merges"):
        for merge in raw["merges"]:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            if left + right in tokens and left in ids and right in ids:
                yield left, right
        return
    for token in sorted(tokens, key=lambda text: (len(text), ids[text])):
        for cut in range(1, len(token)):
            if token[:cut] in ids and token[cut:] in ids:
                yield token[:cut], token[cut:]


def _by_model(plan: VocabularyPlan) -> Iterable[tuple[str, set[str]]]:
    """Return the new normal tokens of each model."""
    found: dict[str, set[str]] = {}
    for token in plan.new:
        if token.flags is None:
            found.setdefault(token.model, set()).add(token.text)
    return found.items()


def _scores(plan: VocabularyPlan, models: Mapping[str, Ingredient]) -> dict[str, float]:
    """Return the scores that the new normal tokens have in their own model; those without are left out."""
    scores: dict[str, float] = {}
    for ref, tokens in _by_model(plan):
        folder = models[ref].folder
        if (folder / TOKENIZER_MODEL).is_file():
            pieces, _ = read_pieces(folder / TOKENIZER_MODEL)
            scores |= {piece.text: piece.score for piece in pieces if piece.text in tokens}
        elif isinstance(vocab := read_json(folder / TOKENIZER_JSON, TOKENIZER_LIMIT)["model"]["vocab"], list):
            scores |= {text: float(score) for text, score in vocab if text in tokens}
    return scores


def _longer_list(
    vocab: Sequence[Any], outside: Sequence[tuple[str, int]], scores: Mapping[str, float]
) -> list[list[Any]]:
    """Return a Unigram's vocabulary with more pieces, each in the place of its number."""
    longer: list[list[Any]] = [list(entry) for entry in vocab]
    for text, number in sorted(outside, key=lambda item: item[1]):
        while len(longer) < number:
            longer.append([f"<unused{len(longer)}>", _UNLIKELY])
        longer.append([text, scores.get(text, _UNLIKELY)])
    return longer


def _new_pieces(file: Path, plan: VocabularyPlan, models: Mapping[str, Ingredient]) -> Iterator[Piece]:
    """Yield what follows a sentencepiece model's own pieces, so that every token has its number's place."""
    pieces, kind = read_pieces(file)
    known = {piece.text for piece in pieces}
    normal = {token.text for token in plan.new if token.flags is None}
    scores = _scores(plan, models)
    worst = min(piece.score for piece in pieces)
    texts = {number: text for text, number in plan.vocabulary.ids.items() if number >= len(pieces)}
    for number in range(len(pieces), plan.vocabulary.rows):
        text = texts.get(number)
        if text is None or text in known:
            yield Piece(f"<unused{number}>", 0.0, UNUSED)
        elif text in normal:
            # The scores of a BPE are ranks: the new pieces come after all others.
            score = worst - 1 - (number - len(pieces)) if kind == "BPE" else scores.get(text, _UNLIKELY)
            yield Piece(text, score, NORMAL)
        else:
            is_special = plan.vocabulary.added.get(text, {}).get("special", False)
            yield Piece(text, 0.0, CONTROL if is_special else USER_DEFINED)


def _settings(settings: Mapping[str, Any], plan: VocabularyPlan) -> dict[str, Any]:
    """Return tokenizer_config.json with the new added tokens, where it lists such tokens at all."""
    is_listed = "added_tokens_decoder" in settings or not (plan.donor.folder / TOKENIZER_JSON).is_file()
    if not is_listed:
        return dict(settings)
    entries = {
        str(token.number): {"content": token.text, **_all_flags(token.flags)}
        for token in plan.new
        if token.flags is not None
    }
    return {**settings, "added_tokens_decoder": {**(settings.get("added_tokens_decoder") or {}), **entries}}


def _all_flags(flags: Mapping[str, bool]) -> dict[str, bool]:
    return {flag: bool(flags.get(flag, False)) for flag in FLAGS}
