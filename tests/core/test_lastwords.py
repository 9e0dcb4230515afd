"""The end of a log: no more than a record can hold, and text whatever was written."""

from pathlib import Path

from lab.core.lastwords import MOST_BYTES, MOST_LINES, LastWords, last_lines, log_of


def written(folder: Path, content: bytes) -> Path:
    log = log_of(folder, "j1", 1)
    log.parent.mkdir()
    log.write_bytes(content)
    return log


def test_a_short_log_is_kept_whole(tmp_path: Path) -> None:
    assert last_lines(written(tmp_path, b"one\ntwo\n")) == "one\ntwo"


def test_of_a_long_log_the_last_two_hundred_lines_are_kept(tmp_path: Path) -> None:
    log = written(tmp_path, b"".join(b"line %d\n" % number for number in range(1000)))
    lines = last_lines(log).split("\n")
    assert (len(lines), lines[0], lines[-1]) == (MOST_LINES, "line 800", "line 999")


def test_of_long_lines_the_last_whole_ones_within_16_kb_are_kept(tmp_path: Path) -> None:
    log = written(tmp_path, b"".join(b"%d%s\n" % (number, b"x" * 5999) for number in range(9)))
    assert [line[0] for line in last_lines(log).split("\n")] == ["7", "8"]


def test_one_endless_line_of_anything_stays_within_16_kb(tmp_path: Path) -> None:
    text = last_lines(written(tmp_path, b"\xff\x00" * 50_000))
    assert 0 < len(text.encode()) <= MOST_BYTES
    assert "\0" not in text


def test_a_progress_bar_counts_as_it_was_seen_last(tmp_path: Path) -> None:
    assert last_lines(written(tmp_path, b"a\r\n10 %\r50 %\r90 %\r\n")) == "a\n90 %"


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.log") == ""
    assert last_lines(tmp_path) == ""


def test_only_what_is_known_gets_into_the_record() -> None:
    assert LastWords().as_payload() == {}
    assert LastWords("SIGKILL", "x").as_payload() == {"exit": "SIGKILL", "log": "x"}
