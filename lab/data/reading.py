"""Read a JSONL file row by row: the good rows as conversations, the bad ones with line number and reason.

Every fault of a file ends as a reason in words; nothing here raises a parser's error at the reader.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lab.core.errors import BadInput, NotFound
from lab.core.spec import strict_json
from lab.data.formats import BadRow, Conversation, Format, conversation_of, flags_of, format_of

MAX_FILE_BYTES = 200 * 2**20
MAX_LINE_BYTES = 2 * 2**20
MAX_LINES = 500_000
MAX_LISTED = 1000
"""So many bad or odd rows are listed one by one; more are only counted."""

ARCHIVES = {b"PK": "a zip archive or a spreadsheet", b"\x1f\x8b": "a gzip archive", b"BZ": "a bzip2 archive"}


@dataclass(frozen=True)
class Line:
    """What one line of the file is: a conversation, or a reason why not, or a repeat of an earlier row.

    Attributes:
        number: the line's number, from 1.
        verdict: what becomes of it.
        reason: why it is refused or what is odd about it; "" when all is well.
        format: the format it came in, when that was plain.
        conversation: the turns; empty unless kept.
    """

    number: int
    verdict: Literal["kept", "refused", "repeated", "blank"]
    reason: str = ""
    format: Format | None = None
    conversation: Conversation | None = None


@dataclass(frozen=True)
class Counts:
    """How many lines ended how. Blank lines are nobody's fault and are not counted."""

    kept: int = 0
    refused: int = 0
    repeated: int = 0
    odd: int = 0


@dataclass(frozen=True)
class Verdict:
    """What a file holds.

    Attributes:
        rows: the conversations kept, in order (only the first ones, where a limit was asked for).
        bad: line number and reason of the refused rows, the first thousand.
        odd: line number and remark for rows that are kept but deserve a look, the first thousand.
        format: what most rows are in; None when there is no good row.
        counts: of all rows.
    """

    rows: tuple[Conversation, ...]
    bad: tuple[tuple[int, str], ...]
    odd: tuple[tuple[int, str], ...]
    format: Format | None
    counts: Counts


def read_dataset(path: Path, *, limit: int | None = None) -> Verdict:
    """Read and check a whole file.

    Args:
        path: a JSONL file.
        limit: keep only the first `limit` conversations in the verdict; the counts are of all.

    Returns:
        The good rows, and every bad one with its line number and reason. A file without one good
        row is a verdict too.

    Raises:
        BadInput: there is no such file, it is too large, or it is no JSONL at all.
    """
    tally = Tally(limit)
    for line in lines_of(path):
        tally.add(line)
    return tally.verdict()


class Tally:
    """Adds up the lines of a file to a verdict.

    Args:
        limit: keep only the first `limit` conversations; None keeps all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._rows: list[Conversation] = []
        self._bad: list[tuple[int, str]] = []
        self._odd: list[tuple[int, str]] = []
        self._ends: Counter[str] = Counter()
        self._formats: Counter[Format] = Counter()

    def add(self, line: Line) -> None:
        """Count one line."""
        self._ends[line.verdict] += 1
        if line.verdict == "kept" and line.conversation and line.format:
            self._formats[line.format] += 1
            if self._limit is None or len(self._rows) < self._limit:
                self._rows.append(line.conversation)
        if line.reason:
            self._ends["odd"] += line.verdict != "refused"
            listed = self._bad if line.verdict == "refused" else self._odd
            if len(listed) < MAX_LISTED:
                listed.append((line.number, line.reason))

    def verdict(self) -> Verdict:
        """Return the sum of the lines so far."""
        ends = self._ends
        counts = Counts(ends["kept"], ends["refused"], ends["repeated"], ends["odd"])
        most = self._formats.most_common(1)
        kind = most[0][0] if most else None
        return Verdict(tuple(self._rows), tuple(self._bad), tuple(self._odd), kind, counts)


def lines_of(path: Path) -> Iterator[Line]:
    """Read a file line by line, never holding more than one line.

    Raises:
        BadInput: there is no such file, it is too large, or it is no JSONL at all.
    """
    with _open(path) as file:
        seen: dict[bytes, int] = {}
        for number, raw in _raw_lines(file):
            if number > MAX_LINES:
                seen_words = f"{path.name} has more than {MAX_LINES:,} lines."
                raise BadInput(seen_words, f"At most {MAX_LINES:,} rows.", "Split it into smaller files.")
            line = _line(number, raw)
            if line.conversation is not None:
                digest = hashlib.sha256(repr(line.conversation).encode()).digest()[:16]
                first = seen.setdefault(digest, number)
                if first != number:
                    line = Line(number, "repeated", f"is the same as line {first} and was left out")
            yield line


def _open(path: Path) -> BinaryIO:
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"There is no file {path.name}.", "", "Choose a JSONL file.") from None
    except OSError as error:
        raise BadInput(f"{path.name} can't be read: {error.strerror}.", "", "Choose a JSONL file.") from None
    if size > MAX_FILE_BYTES:
        file.close()
        seen = f"{path.name} has {size / 2**20:,.0f} MB."
        raise BadInput(seen, f"At most {MAX_FILE_BYTES / 2**20:,.0f} MB.", "Split it into smaller files.")
    head = file.read(2)
    file.seek(0)
    if head in ARCHIVES:
        file.close()
        seen = f"{path.name} is {ARCHIVES[head]}."
        raise BadInput(seen, "A dataset is one JSONL file.", "Unpack it and choose the file inside.")
    return file


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield number and bytes of each line; None for a line that is too long to be read."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw


def _line(number: int, raw: bytes | None) -> Line:
    if raw is None:
        return Line(number, "refused", f"longer than {MAX_LINE_BYTES // 2**20} MB")
    if not raw.strip():
        return Line(number, "blank")
    try:
        row = _json_of(raw)
        conversation = conversation_of(row)
        return Line(number, "kept", "; ".join(flags_of(conversation)), format_of(row), conversation)
    except BadRow as fault:
        return Line(number, "refused", str(fault))


def _json_of(raw: bytes) -> dict[str, object]:
    if b"\x00" in raw:
        raise BadRow("contains NUL bytes; is this a text file in UTF-8?")
    try:
        row = strict_json(raw.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
    except json.JSONDecodeError as error:
        raise BadRow(
            f"not JSON: {error.msg.lower().removesuffix(' at')} at character {error.pos + 1}"
        ) from None
    except ValueError as error:
        raise BadRow(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadRow(f"a JSON {'list' if isinstance(row, list) else 'value'}, not an object in braces")
    return row
