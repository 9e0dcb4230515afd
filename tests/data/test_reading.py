"""A dataset's file is read line by line; every bad line has its number and a reason."""

import json
from pathlib import Path

import pytest

from lab.core.errors import BadInput, NotFound
from lab.data import reading
from lab.data.reading import read_dataset

GOOD = b'{"instruction": "Hi", "output": "Hello"}'


def write(folder: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(end.join(lines) + end)
    return path


def good(number: int) -> bytes:
    return json.dumps({"instruction": f"Question {number}", "output": "Answer"}).encode()


def test_good_rows_are_kept_in_order(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, good(1), good(2)))
    assert [row[0]["content"] for row in verdict.rows] == ["Question 1", "Question 2"]
    assert verdict.format == "alpaca"
    assert (verdict.counts.kept, verdict.counts.refused) == (2, 0)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, b"\xef\xbb\xbf" + good(1), good(2), end=b"\r\n"))
    assert verdict.counts.kept == 2
    assert verdict.bad == ()


def test_blank_lines_are_nobodys_fault(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, good(1), b"", b"   ", good(2)))
    assert (verdict.counts.kept, verdict.counts.refused) == (2, 0)


def test_the_last_line_needs_no_line_end(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(good(1) + b"\n" + good(2))
    assert read_dataset(path).counts.kept == 2


BAD_LINES = {
    "not JSON": (b"{'instruction': 'Hi'}", "not JSON: expecting property name"),
    "cut off": (b'{"instruction": "Hi", "output": "Hel', "not JSON: unterminated string"),
    "NaN": (b"NaN", "NaN is not a JSON number"),
    "too large a number": (b'{"instruction": 1e999, "output": "a"}', "1e999 is too large"),
    "an endless number": (b'{"instruction": ' + b"9" * 5000 + b"}", "not JSON"),
    "a key twice": (b'{"instruction": "a", "output": "b", "output": "c"}', "'output' appears twice"),
    "a list": (b"[1, 2, 3]", "a JSON list, not an object"),
    "a text": (b'"just text"', "a JSON value, not an object"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "invalid UTF-8": (b'{"instruction": "Caf\xe9", "output": "a"}', "not UTF-8 text (byte 21"),
    "a NUL byte": (b'{"instruction": "a\x00", "output": "b"}', "NUL"),
    "missing keys": (b'{"text": "Hi"}', "it has text"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_listed_and_the_others_kept(case: str, tmp_path: Path) -> None:
    line, reason = BAD_LINES[case]
    verdict = read_dataset(write(tmp_path, good(1), line, good(2)))
    assert verdict.counts.kept == 2
    [(number, said)] = verdict.bad
    assert number == 2
    assert reason in said


def test_a_line_of_ten_megabytes_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    huge = b'{"instruction": "' + b"x" * 10_000_000 + b'", "output": "a"}'
    verdict = read_dataset(write(tmp_path, good(1), huge, good(2)))
    assert verdict.bad == ((2, "longer than 2 MB"),)
    assert verdict.counts.kept == 2


def test_a_repeated_row_is_left_out_and_says_of_which(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, good(1), good(2), good(1)))
    assert (verdict.counts.kept, verdict.counts.repeated) == (2, 1)
    assert verdict.odd == ((3, "is the same as line 1 and was left out"),)


def test_an_empty_file_and_one_without_a_good_row_are_verdicts(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert read_dataset(tmp_path / "empty.jsonl").counts.kept == 0
    verdict = read_dataset(write(tmp_path, b"nonsense", b"[]"))
    assert (verdict.counts.kept, verdict.counts.refused, verdict.format) == (0, 2, None)


def test_a_limit_keeps_few_rows_but_counts_all(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, *(good(n) for n in range(9))), limit=2)
    assert len(verdict.rows) == 2
    assert verdict.counts.kept == 9


def test_a_missing_file_a_folder_and_an_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_dataset(tmp_path / "none.jsonl")
    with pytest.raises(BadInput):
        read_dataset(tmp_path)
    (tmp_path / "data.zip").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(BadInput, match="zip archive"):
        read_dataset(tmp_path / "data.zip")


def test_a_file_too_large_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, *(good(n) for n in range(9)))
    monkeypatch.setattr(reading, "MAX_LINES", 5)
    with pytest.raises(BadInput, match="more than 5 lines"):
        read_dataset(path)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10)
    with pytest.raises(BadInput, match="Split it"):
        read_dataset(path)


def test_only_the_first_thousand_bad_rows_are_listed(tmp_path: Path) -> None:
    verdict = read_dataset(write(tmp_path, *([b"nonsense"] * 1200)))
    assert (len(verdict.bad), verdict.counts.refused) == (1000, 1200)
