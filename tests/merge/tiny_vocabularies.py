"""Tokenizers of a few words, as every format that the lab reads, on tiny models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tiny_merge import HIDDEN, TinyShelf, tensors_of
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lab.models.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, encoded_piece

MARKS = ("<unk>", "<s>", "</s>")


def words_tokenizer(words: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """Return a tokenizer with a token for each word."""
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in added])
    return tokenizer


def bpe_tokenizer(merges: Sequence[tuple[str, str]], added: Sequence[str] = ()) -> Tokenizer:
    """Return a byte-level tokenizer: the bytes, what merges make of them, and marks."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return tokenizer


def sentencepiece_model(words: Mapping[str, float], kind: int) -> bytes:
    """Return a sentencepiece model with byte fallback: marks, bytes, then words with their scores.

    Args:
        words: piece -> score.
        kind: 1 for Unigram, 2 for BPE.
    """
    pieces = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    pieces += [Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    pieces += [Piece(text, score, NORMAL) for text, score in words.items()]
    trainer = bytes([3 << 3, kind, 0x98, 0x02, 1])  # fields 3 and 35: model_type, byte_fallback
    normalizer = b"\x0a\x08identity" + bytes([3 << 3, 1, 4 << 3, 0, 5 << 3, 1])
    parts = [encoded_piece(piece) for piece in pieces]
    parts += [bytes([2 << 3 | 2, len(trainer)]) + trainer, bytes([3 << 3 | 2, len(normalizer)]) + normalizer]
    return b"".join(parts)


def rows(count: int, start: float = 0.0) -> torch.Tensor:
    """Return rows that say which they are: row i is start + i in every column."""
    return (torch.arange(count) + start)[:, None].expand(count, HIDDEN).float()


def add_model(
    shelf: TinyShelf,
    name: str,
    tokenizer: Tokenizer | None,
    *,
    count: int,
    start: float = 0.0,
    head: bool = False,
    seed: int = 0,
) -> Path:
    """Write a model whose embedding's rows say which they are; its head's are a hundred more."""
    tensors = tensors_of(2, seed=seed, scale=0.05, head=head)
    tensors["model.embed_tokens.weight"] = rows(count, start)
    if head:
        tensors["lm_head.weight"] = rows(count, start + 100)
    folder = shelf.add(name, tensors, torch.float32, vocab_size=count)
    (folder / "tokenizer.json").unlink()
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def add_sentencepiece(
    shelf: TinyShelf, name: str, words: Mapping[str, float], kind: int, *, start: float = 0.0, seed: int = 0
) -> Path:
    """Write a model with a tokenizer.model and no tokenizer.json."""
    folder = add_model(shelf, name, None, count=259 + len(words), start=start, seed=seed)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(words, kind))
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **marks}))
    return folder
