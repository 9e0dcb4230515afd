"""lab/score/likelihood against the plainest scorer there is: one sequence, one forward pass, no cache."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lab.score.likelihood as likelihood
from lab.score.likelihood import Passages, Tokens, batches, log_likelihoods


class Loaded:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def naive(self, context: tuple[int, ...], continuation: tuple[int, ...]) -> float:
        """Sum log p of a continuation in one uncached pass over context and continuation."""
        whole = torch.tensor([*context, *continuation])
        with torch.inference_mode():
            told = self.model(whole[None]).logits[0].double().log_softmax(-1)
        at = range(len(context) - 1, len(whole) - 1)
        return sum(told[index, whole[index + 1]].item() for index in at)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Loaded:
    return Loaded(tiny)


def assert_naive(loaded: Loaded, passages: list[Passages]) -> None:
    for item, values in zip(passages, log_likelihoods(loaded.model, passages), strict=True):
        for tail, value in zip(item.continuations, values, strict=True):
            assert value == pytest.approx(loaded.naive(item.context, tail), abs=2e-4)


def test_contexts_and_answers_of_all_lengths_in_one_batch_score_as_each_alone(loaded):
    tokens = Tokens(loaded.tokenizer, 512)
    assert_naive(
        loaded,
        [
            tokens.choices("Question: What?\nAnswer:", ["a", "a long answer", "no"]),
            tokens.choices("Q", ["x", "yy"]),
            tokens.choices("A much longer question than the others, to be padded to", ["1", "22", "333", ""]),
        ],
    )


def test_answers_of_one_token_need_no_second_pass(loaded):
    calls = []
    handle = loaded.model.register_forward_hook(lambda *_: calls.append(1))
    values = log_likelihoods(loaded.model, [Passages((5, 6, 7), ((8,), (9,)))])
    handle.remove()
    assert len(calls) == 1
    assert values[0] == pytest.approx([loaded.naive((5, 6, 7), (tail,)) for tail in (8, 9)], abs=1e-5)


def test_long_texts_read_in_small_steps_score_the_same(loaded, monkeypatch):
    windows = Tokens(loaded.tokenizer, 256).windows("The quick brown fox jumps over the lazy dog. " * 5)
    whole = log_likelihoods(loaded.model, windows)
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 20 * loaded.model.config.vocab_size * 4)
    assert log_likelihoods(loaded.model, windows)[0] == pytest.approx(whole[0], abs=1e-3)
    assert_naive(loaded, windows)


def test_an_answer_starts_with_the_space_and_after_the_contexts_tokens(loaded):
    item = Tokens(loaded.tokenizer, 512).choices("ab", ["c", "de"])
    decode = loaded.tokenizer.decode
    assert decode(item.context) == "ab"
    assert [decode(tail) for tail in item.continuations] == [" c", " de"]
    assert item.tokens_cut == 0


def test_a_context_too_long_loses_its_beginning(loaded):
    item = Tokens(loaded.tokenizer, 8).choices("0123456789", ["abc", "d"])
    assert loaded.tokenizer.decode(item.context) == "56789"  # 5 + 4 tokens, the last of which is never read
    assert item.tokens_cut == 5


def test_an_answer_longer_than_the_window_is_an_error(loaded):
    with pytest.raises(ValueError, match="an answer has 10 tokens, and the window holds 8"):
        Tokens(loaded.tokenizer, 8).choices("q", ["123456789"])


class Letters:
    """A tokenizer of one token a letter."""

    bos_token_id: int | None = 0
    eos_token_id = 99

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) - 96 for letter in text]


def test_windows_predict_every_token_once_and_are_as_in_lm_eval():
    # lm-eval's own example: ten tokens, windows of four; the last window is full, its new tokens last.
    windows = Tokens(Letters(), 4).windows("abcdefghij")
    assert [(item.context, item.continuations[0]) for item in windows] == [
        ((0,), (1, 2, 3, 4)),
        ((4,), (5, 6, 7, 8)),
        ((6, 7, 8), (9, 10)),
    ]


def test_a_short_text_is_one_window_after_the_prefix():
    letters = Letters()
    letters.bos_token_id = None
    (window,) = Tokens(letters, 4).windows("abc")
    assert (window.context, window.continuations) == ((99,), ((1, 2, 3),))


def test_batches_keep_the_order_and_hold_at_least_one_item():
    item = [Passages((1,) * 100, ((1,) * 50,))]  # 150 tokens
    huge = [Passages((1,) * 1000, ((1,),))]
    assert list(batches([item, huge, item, [], item], "cpu")) == [
        range(1),
        range(1, 2),
        range(2, 4),
        range(4, 5),
    ]
    assert list(batches([item, huge, item], "cuda")) == [range(3)]
    assert list(batches([], "cpu")) == []
