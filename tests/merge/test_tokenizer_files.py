"""The tokenizer of a merged model, as transformers loads it: its numbers are the rows of the embedding."""

import json
from pathlib import Path

import pytest
from tiny_merge import TinyJob, TinyShelf
from tiny_vocabularies import add_model, add_sentencepiece, bpe_tokenizer

from lab.merge.recipe import read_recipe
from lab.merge.run import run
from lab.models.vocabulary import read_vocabulary

UNION = """\
models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]
merge_method: linear
tokenizer_source: union
"""
CAT = (("c", "a"), ("ca", "t"))
DOG = (("d", "o"), ("do", "g"))
WORDS = {"▁": -1.0, "c": -5.0, "a": -5.0, "t": -5.0, "d": -5.0, "o": -5.0, "g": -5.0}


def merged(job: TinyJob, text: str = UNION) -> Path:
    return run(read_recipe(text, name="out"), job).models[0].folder


def loaded(folder: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == dict(read_vocabulary(folder).ids)
    return tokenizer


def pieces(folder: Path, text: str) -> list[str]:
    tokenizer = loaded(folder)
    numbers = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(numbers) == text
    assert max(numbers) < json.loads((folder / "config.json").read_text())["vocab_size"]
    return tokenizer.convert_ids_to_tokens(numbers)


@pytest.fixture
def two_bpe(shelf: TinyShelf) -> TinyShelf:
    """a knows `cat` and a mark, b knows `dog`, the same mark and another."""
    add_model(shelf, "a", bpe_tokenizer(CAT, ["<|end|>"]), count=259)
    add_model(shelf, "b", bpe_tokenizer(DOG, ["<|end|>", "<|tool|>"]), count=260, start=1000)
    return shelf


def test_a_union_of_byte_level_bpe_makes_the_words_of_both(two_bpe: TinyShelf, job: TinyJob):
    folder = merged(job)
    assert pieces(folder, "catdog<|tool|>do<|end|>") == ["cat", "dog", "<|tool|>", "do", "<|end|>"]
    before = read_vocabulary(two_bpe.room / "a").ids
    after = read_vocabulary(folder).ids
    assert {token: after[token] for token in before} == before  # the base's tokens keep their numbers
    assert [token for token in after if token not in before] == ["do", "dog", "<|tool|>"]


def test_a_tokenizer_that_gains_nothing_is_copied_as_it_is(two_bpe: TinyShelf, job: TinyJob):
    folder = merged(job, UNION.replace("union", "b"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (two_bpe.room / "b" / name).read_bytes()
    assert pieces(folder, "dog<|tool|>") == ["dog", "<|tool|>"]


def test_old_spellings_of_merges_stay_as_they_were(two_bpe: TinyShelf, job: TinyJob):
    file = two_bpe.room / "a" / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["merges"] = [" ".join(merge) for merge in raw["model"]["merges"]]
    file.write_text(json.dumps(raw))
    folder = merged(job)
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["merges"] == [
        *("c a", "ca t"),
        *("d o", "do g"),
    ]
    assert pieces(folder, "dogcat") == ["dog", "cat"]


@pytest.mark.parametrize("kind", [1, 2], ids=["unigram", "bpe"])
def test_a_union_of_sentencepiece_models_is_one(shelf: TinyShelf, job: TinyJob, kind: int):
    ranks = {1: (-2.0, -2.0), 2: (-10.0, -11.0)}[kind]
    add_sentencepiece(shelf, "a", {**WORDS, "ca": ranks[0], "cat": ranks[1]}, kind)
    add_sentencepiece(shelf, "b", {**WORDS, "do": ranks[0], "dog": ranks[1]}, kind, start=1000)
    folder = merged(job)
    assert not (folder / "tokenizer.json").exists()
    assert pieces(folder, "cat dog") == ["▁", "cat", "▁", "dog"]
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert model.encode("cat dog", out_type=str) == ["▁", "cat", "▁", "dog"]


def test_marks_of_tokenizer_config_are_kept_with_a_sentencepiece_model(shelf: TinyShelf, job: TinyJob):
    add_sentencepiece(shelf, "a", {**WORDS, "ca": -2.0, "cat": -3.0}, 2)
    folder = add_sentencepiece(shelf, "b", {**WORDS, "do": -2.0, "dog": -3.0}, 2, start=1000)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {"268": {"content": "<|tool|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    result = merged(job)
    vocabulary = read_vocabulary(result)
    assert list(vocabulary.ids)[-3:] == ["do", "dog", "<|tool|>"]
    assert pieces(result, "cat<|tool|>")[:3] == ["▁", "cat", "<|tool|>"]


def test_a_tokenizer_json_gains_the_words_of_a_sentencepiece_model(shelf: TinyShelf, job: TinyJob):
    source = add_sentencepiece(shelf, "s", {**WORDS, "ca": -10.0, "cat": -11.0}, 2)
    from transformers import AutoTokenizer

    folder = add_model(shelf, "a", None, count=268)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    assert not (folder / "tokenizer.model").exists()
    add_sentencepiece(shelf, "b", {**WORDS, "do": -10.0, "dog": -11.0}, 2, start=1000)
    assert pieces(merged(job), "catdog")[-2:] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("auto", "B:"),
        ("chatml", "<|im_start|>user\nahoy<|im_end|>\n"),
        ("'C:{{ messages[0].content }}'", "C:ahoy"),
    ],
)
def test_the_chat_template_is_the_one_asked_for(two_bpe: TinyShelf, job: TinyJob, setting: str, words: str):
    add_model(two_bpe, "c", bpe_tokenizer(DOG), count=258)
    for name, template in (("a", "A:"), ("b", "B:"), ("c", "B:")):
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
        (two_bpe.room / name / "tokenizer_config.json").write_text(json.dumps(settings))
    text = UNION.replace("}}]", "}}, {model: c, parameters: {weight: 1}}]")
    folder = merged(job, text + f"chat_template: {setting}\n")
    tokenizer = loaded(folder)
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "ahoy"}], tokenize=False)
    assert shown == words
