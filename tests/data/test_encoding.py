"""Which tokens a model learns from, counted by hand on a byte-level tokenizer: a character is a token."""

from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import BadInput
from lab.data.encoding import IGNORED, encode, load_tokenizer
from lab.data.formats import Conversation

IM_START, IM_END = 1, 2
HELLO: Conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo!"}]


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_tokenizer(tiny)


def trained(row: Any, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


def test_the_answer_and_its_end_mark_are_trained_and_nothing_else(tokenizer: Any) -> None:
    row = encode(HELLO, tokenizer)
    # <|im_start|> user \n Hi <|im_end|> \n <|im_start|> assistant \n Yo! <|im_end|> \n
    before = 1 + 4 + 1 + 2 + 1 + 1 + 1 + 9 + 1
    assert len(row.ids) == before + 3 + 1 + 1
    assert row.labels[:before] == [IGNORED] * before
    assert row.labels[before : before + 4] == row.ids[before : before + 4]
    assert row.labels[before + 3] == IM_END
    assert row.labels[-1] == IGNORED  # the line end after the end mark
    assert row.trained == 4


def test_the_end_mark_is_trained_though_it_is_the_padding_token_too(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == IM_END
    assert IM_END in encode(HELLO, tokenizer).labels


def test_every_answer_of_a_conversation_is_trained(tokenizer: Any) -> None:
    longer: Conversation = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Naïve 🏴 "},
    ]
    assert trained(encode(longer, tokenizer), tokenizer) == "Yo!<|im_end|>Naïve 🏴 <|im_end|>"


def test_an_answer_that_repeats_the_question_is_told_from_it(tokenizer: Any) -> None:
    echo: Conversation = [{"role": "user", "content": "Yo!"}, {"role": "assistant", "content": "Yo!"}]
    assert encode(echo, tokenizer).trained == 4


def test_a_row_is_cut_at_the_limit_and_remembers_its_length(tokenizer: Any) -> None:
    whole, short = encode(HELLO, tokenizer), encode(HELLO, tokenizer, max_length=22)
    assert (len(short.ids), short.length, short.is_cut) == (22, whole.length, True)
    assert short.trained == 1
    assert encode(HELLO, tokenizer, max_length=10).trained == 0


def test_a_default_system_prompt_of_the_template_is_not_trained(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ 'You are helpful.\n' }}" + tokenizer.chat_template
    assert trained(encode(HELLO, tokenizer), tokenizer) == "Yo!<|im_end|>"


def test_a_template_without_end_mark_gets_one_after_the_last_answer(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert trained(encode(HELLO, tokenizer), tokenizer) == "Yo!<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(BadInput, match="rewrites earlier turns"):
        encode([*HELLO, *HELLO], tokenizer)


def test_a_template_that_refuses_a_row_is_one_sentence(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system role, please') }}"
    with pytest.raises(BadInput, match="no system role, please"):
        encode(HELLO, tokenizer)


def test_a_folder_without_tokenizer_or_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        load_tokenizer(tmp_path)
    assert refusal.value.field == "model"
    (tmp_path / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(BadInput, match="no chat template"):
        load_tokenizer(tmp_path)
