"""Answers stream as transformers would write them: same tokens, whole characters, honest figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CPU, FakeShelf
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import Bench, Shape, tuned_from, weights_of, write_model

from lab.core.errors import BadInput, Cancelled
from lab.models.generation import Piece, TextStream, render, stream
from lab.models.runtime import Loaded, load
from lab.models.sampling import Sampling
from lab.models.source import Source

GREEDY = Sampling(temperature=0, max_new_tokens=24)
ASK = [{"role": "user", "content": "What is two and two?"}]


@pytest.fixture(scope="module")
def loaded(bench: Bench) -> Loaded:
    return load(Source.find("base", FakeShelf(bench.root)), CPU)


def answer(loaded: Loaded, sampling: Sampling = GREEDY, ask: Sequence[dict[str, str]] = ASK) -> list[Piece]:
    return list(stream(loaded, render(loaded, ask), sampling))


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


class TestRendering:
    def test_a_conversation_is_written_through_the_models_own_template(self, loaded: Loaded) -> None:
        ids = render(loaded, [{"role": "system", "content": "Be brief."}, *ASK])
        assert loaded.tokenizer.decode(ids) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_a_model_without_template_gets_a_plain_one(self, loaded: Loaded, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "plain")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": None}))
        plain = load(Source("plain", folder), CPU)
        assert plain.tokenizer.decode(render(plain, ASK)) == "User: What is two and two?\n\nAssistant:"

    def test_a_prompt_longer_than_the_context_is_refused_with_numbers(self, loaded: Loaded) -> None:
        with pytest.raises(BadInput, match=r"has 6\d\d tokens.*holds 512") as caught:
            render(loaded, [{"role": "user", "content": "a" * 600}])
        assert caught.value.field == "prompt"

    def test_what_a_template_refuses_is_told_in_words(self, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "picky")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = "{{ raise_exception('no system messages here') }}"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match="no system messages here"):
            render(load(Source("picky", folder), CPU), ASK)


class TestStreaming:
    def test_greedy_text_is_that_of_transformers(self, loaded: Loaded) -> None:
        ids = render(loaded, ASK)
        whole = loaded.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=24, do_sample=False
        )[0, len(ids) :]
        assert text(answer(loaded)) == loaded.tokenizer.decode(whole, skip_special_tokens=True)

    def test_a_long_prompt_read_in_chunks_gives_the_same_answer(
        self, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask = [{"role": "user", "content": "count " * 50}]
        at_once = text(answer(loaded, ask=ask))
        monkeypatch.setattr("lab.models.generation.PREFILL_TOKENS", 7)
        assert text(answer(loaded, ask=ask)) == at_once

    def test_the_same_seed_says_the_same(self, loaded: Loaded) -> None:
        warm = Sampling(temperature=1.2, top_p=0.95, max_new_tokens=30, seed=4)
        other = warm.model_copy(update={"seed": 5})
        assert text(answer(loaded, warm)) == text(answer(loaded, warm))
        assert text(answer(loaded, warm)) != text(answer(loaded, other))

    def test_figures_count_prompt_and_answer(self, loaded: Loaded) -> None:
        pieces = answer(loaded)
        last = pieces[-1]
        assert last.prompt_tokens == len(render(loaded, ASK))
        assert (last.tokens, last.stop_reason) == (24, "length")
        assert all(piece.stop_reason is None for piece in pieces[:-1])
        assert last.first_token_seconds > 0
        assert last.tokens_per_second > 0

    def test_an_answer_ends_where_the_model_ends_it(self, bench: Bench, tmp_path: Path) -> None:
        """A model whose likeliest next token is always <|im_end|>: its head row points along the state."""
        weights = weights_of(Shape(tied=False), 0)
        weights["lm_head.weight"].zero_()
        state = load(Source("b", write_model(tmp_path / "a", shape=Shape(tied=False), weights=weights)), CPU)
        hidden = state.model.model(torch.tensor([render(state, ASK)])).last_hidden_state[0, -1]
        weights["lm_head.weight"][2] = hidden.detach()
        folder = write_model(tmp_path / "ender", shape=Shape(tied=False), weights=weights)
        [piece] = answer(load(Source("ender", folder), CPU))
        assert (piece.text, piece.tokens, piece.stop_reason) == ("", 1, "end")

    def test_an_answer_never_passes_the_context(self, loaded: Loaded) -> None:
        ask = [{"role": "user", "content": "a" * 460}]
        pieces = answer(loaded, Sampling(temperature=0, max_new_tokens=4000), ask)
        assert pieces[-1].prompt_tokens + pieces[-1].tokens <= 512

    def test_stopping_keeps_what_was_said(self, loaded: Loaded) -> None:
        looks = iter([False] * 5 + [True] * 50)
        pieces = list(stream(loaded, render(loaded, ASK), GREEDY, is_stopped=lambda: next(looks)))
        assert (pieces[-1].tokens, pieces[-1].stop_reason) == (5, "stopped")
        assert text(answer(loaded)).startswith(text(pieces).rstrip("\N{REPLACEMENT CHARACTER}"))

    def test_a_cancel_is_noticed_before_the_next_token(self, loaded: Loaded) -> None:
        breaths = 0

        def breathe() -> None:
            nonlocal breaths
            breaths += 1
            if breaths == 4:  # one for the prompt, two for tokens
                raise Cancelled

        pieces = stream(loaded, render(loaded, ASK), GREEDY, breathe=breathe)
        assert [next(pieces).tokens, next(pieces).tokens] == [1, 2]
        with pytest.raises(Cancelled):
            next(pieces)


class FakeTokenizer:
    """One token is one byte, or a word with a leading mark that decoding strips at the start."""

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return bytes(tokens).decode("utf-8", "replace")


class TestText:
    @given(st.text())
    def test_pieces_join_to_the_whole_text(self, words: str) -> None:
        tokens = TextStream(FakeTokenizer())
        assert "".join([*map(tokens.add, words.encode()), tokens.rest()]) == words

    @given(st.text())
    def test_no_character_is_ever_split(self, words: str) -> None:
        tokens = TextStream(FakeTokenizer())
        for piece in map(tokens.add, words.replace("\N{REPLACEMENT CHARACTER}", "").encode()):
            assert "\N{REPLACEMENT CHARACTER}" not in piece

    @given(st.binary(max_size=40))
    def test_even_broken_bytes_join_to_what_decoding_all_gives(self, raw: bytes) -> None:
        tokens = TextStream(FakeTokenizer())
        assert "".join([*map(tokens.add, raw), tokens.rest()]) == raw.decode("utf-8", "replace")

    @given(words=st.text(min_size=1))
    def test_a_real_tokenizer_gives_the_same(self, loaded: Loaded, words: str) -> None:
        tokens = TextStream(loaded.tokenizer)
        ids = loaded.tokenizer(words, add_special_tokens=False)["input_ids"]
        assert "".join([*map(tokens.add, ids), tokens.rest()]) == loaded.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def test_spaces_between_words_survive_a_metaspace_tokenizer(self) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {"\u2581the": 0, "\u2581old": 1, "\u2581sea": 2, "<unk>": 3}
        raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        tokens = TextStream(PreTrainedTokenizerFast(tokenizer_object=raw))
        assert [tokens.add(token) for token in (0, 1, 2)] == ["the", " old", " sea"]


@pytest.mark.starter
def test_the_starter_model_knows_the_capital_of_france(starter_folder: Path) -> None:
    loaded = load(Source("starter", starter_folder), CPU)
    pieces = answer(loaded, ask=[{"role": "user", "content": "What is the capital of France?"}])
    assert text(pieces) == "The capital of France is Paris."
    assert pieces[-1].stop_reason == "end"


def test_a_fine_tune_says_something_else(loaded: Loaded, tmp_path: Path) -> None:
    weights = tuned_from(weights_of(Shape(), 0), seed=8, size=0.1)
    tuned = load(Source("tuned", write_model(tmp_path / "tuned", weights=weights)), CPU)
    assert text(answer(tuned)) != text(answer(loaded))
