"""lab/score/tasks: what is read, and what each bad file is told."""

import json
from pathlib import Path

import pytest

from lab.core.errors import BadInput, NotFound
from lab.score.tasks import SHIPPED_CHOICES, SHIPPED_TEXT, place, read_documents, read_questions

GOOD = '{"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}'


def written(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refusal(read, file: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read(file)
    assert caught.value.field in ("multiple_choice", "text")
    return str(caught.value)


def test_the_shipped_sets_are_whole(shelf):
    assert len(read_questions(place(SHIPPED_CHOICES, shelf))) == 40
    assert len(read_documents(place(SHIPPED_TEXT, shelf))) == 5


def test_a_dataset_that_is_not_there_is_not_found(shelf):
    with pytest.raises(NotFound, match="nowhere"):
        place("nowhere", shelf)


def test_a_byte_order_mark_windows_line_ends_blank_lines_and_extra_keys_are_no_fault(tmp_path):
    extra = json.dumps({"question": "q", "choices": ["a", "b"], "answer": 0, "subject": "law"})
    rows = read_questions(written(tmp_path, f"\ufeff{GOOD}\r\n\r\n{extra}\r\n"))
    assert [(row.question, row.choices, row.answer) for row in rows] == [
        ("2 + 2?", ("3", "4"), 1),
        ("q", ("a", "b"), 0),
    ]


def test_a_limit_keeps_the_first_rows(tmp_path):
    assert [row.text for row in read_documents(written(tmp_path, '{"text": "a"}\n{"text": "b"}'), 1)] == ["a"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: it is not JSON"),
        ('{"question": "q", "choices": ["a", "b"], "answer": NaN}', "line 2: it is not JSON (NaN"),
        ('{"question": "q", "choices": ["a", "b"]}', "line 2: answer: Field required"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "line 2: choices: Tuple should have at least 2"),
        ('{"question": "q", "choices": ["a", ""], "answer": 0}', "line 2: choices.1: String should have"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "line 2: answer is 2, but the 2 choices"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "line 2: answer: Input should be greater"),
        (
            '{"question": "q", "choices": ["a", "b"], "answer": "B"}',
            "line 2: answer: Input should be a valid",
        ),
        ('{"question": "", "choices": ["a", "b"], "answer": 0}', "line 2: question: String should have"),
        ("[1]", "line 2: Input should be a valid dictionary"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_reason(tmp_path, line, why):
    words = refusal(read_questions, written(tmp_path, f"{GOOD}\n{line}\n{GOOD}\n"))
    assert words.startswith(f"rows.jsonl has lines that can't be scored: {why}")
    assert 'Each line is {"question": text' in words


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    words = refusal(read_documents, written(tmp_path, b'{"text": "a"}\n{"text": "\xff"}\n'))
    assert "line 2: it is not UTF-8 text" in words


def test_many_bad_lines_are_counted_not_listed(tmp_path):
    words = refusal(read_documents, written(tmp_path, "x\n" * 12))
    assert "line 5:" in words
    assert "line 6:" not in words
    assert "And 7 more." in words


def test_an_empty_file_is_refused(tmp_path):
    assert "has no rows" in refusal(read_documents, written(tmp_path, "\n\n"))


def test_a_missing_file_is_refused(tmp_path):
    assert "can't be read: No such file" in refusal(read_questions, tmp_path / "gone.jsonl")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.score.tasks.FILE_BYTES", 4)
    assert "has at most" in refusal(read_documents, written(tmp_path, '{"text": "a"}'))
