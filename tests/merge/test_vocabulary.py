"""Models of different vocabularies: which token gets which row, with numbers that can be counted by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_merge import HIDDEN, TinyJob, TinyShelf
from tiny_vocabularies import add_model, words_tokenizer

from lab.core.errors import BadInput
from lab.core.spec import spec_sha256
from lab.merge import reading, rows
from lab.merge.check import check, prepare
from lab.merge.engine import Engine
from lab.merge.recipe import read_recipe
from lab.merge.run import run
from lab.merge.spec import MergeSpec
from lab.models.vocabulary import read_vocabulary

HALF = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]\n"
LINEAR = HALF + "merge_method: linear\nparameters: {normalize: false}\n"


def recipe(more: str, text: str = LINEAR) -> MergeSpec:
    return read_recipe(text + more, name="out")


@pytest.fixture
def words(shelf: TinyShelf) -> TinyShelf:
    """a knows the cat, b the dog; base knows both, in another order, and a bird."""
    add_model(shelf, "a", words_tokenizer(["<unk>", "the", "cat"]), count=4, seed=1)  # a row of padding
    add_model(shelf, "b", words_tokenizer(["<unk>", "dog", "the"]), count=3, start=10, seed=2)
    order = ["<unk>", "the", "bird", "dog", "cat"]
    add_model(shelf, "base", words_tokenizer(order), count=5, start=50, seed=3)
    return shelf


def embedding(folder: Path, name: str = "model.embed_tokens.weight") -> list[float]:
    """Return the rows' numbers; all columns are the same."""
    table = load_file(folder / "model.safetensors")[name]
    assert (table == table[:, :1]).all()
    return [round(value, 4) for value in table[:, 0].tolist()]


def merged(spec: MergeSpec, job: TinyJob) -> Path:
    return run(spec, job).models[0].folder


def test_the_union_has_every_token_and_each_model_lends_what_the_other_lacks(words: TinyShelf, job: TinyJob):
    folder = merged(recipe("tokenizer_source: union\n"), job)
    assert read_vocabulary(folder).ids == {"<unk>": 0, "the": 1, "cat": 2, "dog": 3}
    # <unk> and the: the mean of both; cat: a's row 2 in both; dog: b's row 11 in both
    assert embedding(folder) == [(0 + 10) / 2, (1 + 12) / 2, 2.0, 11.0]
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 4


def test_another_models_tokenizer_drops_what_it_lacks(words: TinyShelf, job: TinyJob):
    folder = merged(recipe("tokenizer_source: b\n"), job)
    assert read_vocabulary(folder).ids == {"<unk>": 0, "dog": 1, "the": 2}
    assert embedding(folder) == [5.0, 11.0, 6.5]


def test_the_base_lends_its_row_before_others_do(words: TinyShelf, job: TinyJob):
    text = HALF.replace("]", ", {model: base, parameters: {weight: 0}}]") + "merge_method: linear\n"
    folder = merged(recipe("base_model: base\ntokenizer_source: base\n", text), job)
    assert list(read_vocabulary(folder).ids) == ["<unk>", "the", "bird", "dog", "cat"]
    # bird: the base's 52; dog: a takes the base's 53, b has 11; cat: a has 2, b takes the base's 54
    assert embedding(folder) == [5.0, 6.5, 52.0, (53 + 11) / 2, (2 + 54) / 2]


def test_without_a_base_a_missing_row_is_the_mean_of_those_that_have_it(words: TinyShelf, job: TinyJob):
    add_model(words, "c", words_tokenizer(["<unk>", "the", "dog"]), count=3, start=20)
    text = HALF.replace("]", ", {model: c, parameters: {weight: 1}}]")
    folder = merged(
        recipe("merge_method: linear\nparameters: {normalize: false}\ntokenizer_source: union\n", text), job
    )
    # dog is 11 in b and 22 in c; a takes their mean: 0.5 * 16.5 + 0.5 * 11 + 22
    assert embedding(folder)[3] == 0.5 * 16.5 + 0.5 * 11 + 22


def test_task_vectors_are_taken_after_the_rows_are_in_one_order(words: TinyShelf, job: TinyJob):
    text = HALF + "merge_method: task_arithmetic\nbase_model: base\ntokenizer_source: base\n"
    folder = merged(recipe("", text), job)
    # the: 51 + 0.5 (1 - 51) + 0.5 (12 - 51); bird: nobody but the base, so nothing moves
    assert embedding(folder)[1:3] == [6.5, 52.0]


def test_rules_for_single_tokens_come_first_and_force_replaces_own_rows(words: TinyShelf, job: TinyJob):
    rules = """\
tokenizer:
  source: union
  tokens:
    cat: {source: {kind: zero}}
    dog: {source: {kind: model_token, model: a, token: the}}
    the: {source: a, force: true}
    <new>: {source: {kind: model_token, model: b, token_id: 1}}
    <blank>:
"""
    folder = merged(recipe(rules), job)
    vocabulary = read_vocabulary(folder)
    assert vocabulary.ids == {"<unk>": 0, "the": 1, "cat": 2, "dog": 3, "<new>": 4, "<blank>": 5}
    # cat: a has 2, b gets 0; dog: a gets its own row of `the`, b has 11; the: 1 in both
    assert embedding(folder) == [5.0, 1.0, 1.0, (1 + 11) / 2, 11.0, 0.0]
    assert set(vocabulary.added) == {"<new>", "<blank>"}


def test_padding_rows_are_the_mean_of_each_models_others(words: TinyShelf, job: TinyJob):
    folder = merged(recipe("tokenizer: {source: union, pad_to_multiple_of: 8}\n"), job)
    first = [5.0, 6.5, 2.0, 11.0]
    assert embedding(folder) == [*first, *[sum(first) / 4] * 4]
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 8


def test_a_head_of_its_own_is_laid_out_too_and_written_once(shelf: TinyShelf, job: TinyJob):
    add_model(shelf, "a", words_tokenizer(["<unk>", "cat"]), count=2, head=True)
    add_model(shelf, "b", words_tokenizer(["<unk>", "dog"]), count=2, start=10)  # tied
    folder = merged(recipe("tokenizer_source: union\n"), job)
    assert embedding(folder) == [5.0, 1.0, 11.0]
    assert embedding(folder, "lm_head.weight") == [(100 + 10) / 2, 101.0, 11.0]
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    add_model(shelf, "c", words_tokenizer(["<unk>", "cat"]), count=2)
    tied = merged(
        read_recipe(LINEAR.replace("model: a", "model: c") + "tokenizer_source: union\n", name="t"), job
    )
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")


@pytest.mark.parametrize("chunk", [3, HIDDEN, 50])
@pytest.mark.parametrize("method", ["linear", "ties", "sce"])
def test_chunks_that_end_within_a_row_give_the_same_numbers(
    words: TinyShelf, job: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, method: str
):
    weights = HALF if method != "sce" else "models: [{model: a}, {model: b}]\n"
    text = weights + f"merge_method: {method}\nbase_model: base\n"
    text = text.replace("]\n", ", {model: base, parameters: {weight: 0}}]\n") if method == "linear" else text
    spec = recipe("tokenizer: {source: union, pad_to_multiple_of: 4}\n", text)

    def written(work: Path) -> dict[str, torch.Tensor]:
        engine = Engine(prepare(spec, job), work, spec_sha256(spec))
        engine.run(job)
        return load_file(engine.folder / "model.safetensors")

    whole = written(tmp_path / "whole")
    monkeypatch.setattr(reading, "CHUNK", chunk)
    monkeypatch.setattr(rows, "_MEAN_ELEMENTS", chunk)
    torch.testing.assert_close(written(tmp_path / "pieces"), whole, rtol=1e-6, atol=1e-6)


def test_what_becomes_of_each_vocabulary_is_told_before_and_kept_after(words: TinyShelf, job: TinyJob):
    plan = check(recipe("tokenizer_source: union\n"), words)
    assert plan.vocabulary is not None
    tallies = [
        (t.model, t.tokens, t.kept, t.dropped, t.lent, t.averaged, t.zero) for t in plan.vocabulary.tally
    ]
    assert tallies == [("a", 3, 3, 0, 1, 0, 0), ("b", 3, 3, 0, 1, 0, 0)]
    assert plan.vocabulary.notes == ("Rows of a that belong to no token and are left out: 1.",)
    assert plan.vocab == 4
    model = run(recipe("tokenizer_source: b\n"), job).models[0]
    assert model.facts["vocab"] == 3
    assert model.facts["vocabulary"]["models"][0]["dropped"] == 1
    assert "| a | 3 | 2 | 1 | 1 | 0 | 0 |" in (model.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "words_", "field"),
    [
        ("", "tokenizer_source: union keeps every model's tokens", "models.1.model"),
        ("tokenizer_source: gone\n", "no model 'gone'", "tokenizer"),
        ("tokenizer: {tokens: {cat: {source: b}}}\n", "b has no token 'cat'", "tokenizer.tokens.cat.source"),
        (
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: b, token_id: 9}}}}\n",
            "b has no row 9",
            "tokenizer.tokens.x.source.model",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(words: TinyShelf, more: str, words_: str, field: str):
    with pytest.raises(BadInput, match=words_) as refused:
        check(recipe(more), words)
    assert refused.value.field == field


def test_a_model_without_tokenizer_files_is_refused(words: TinyShelf):
    (words.room / "b" / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"b has no tokenizer\.json and no tokenizer\.model"):
        check(recipe("tokenizer_source: union\n"), words)


def test_equal_vocabularies_give_what_no_setting_gives(family: TinyShelf, job: TinyJob):
    for name in ("a", "b"):
        tokenizer = words_tokenizer(["<unk>", *(f"w{number}" for number in range(19))])
        tokenizer.save(str(family.room / name / "tokenizer.json"))
    plain = load_file(merged(recipe(""), job) / "model.safetensors")
    other = load_file(
        merged(read_recipe(LINEAR + "tokenizer_source: union\n", name="o"), job) / "model.safetensors"
    )
    assert all(torch.equal(other[name], value) for name, value in plain.items())
