"""Bring a file into the lab as a dataset: check it, write the good rows in one form, list it.

Stored form: one `{"messages": [...]}` a line, UTF-8. Runs in the web process; needs no torch.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from lab.core.errors import BadInput, Conflict
from lab.core.files import sync
from lab.core.spec import LabName
from lab.core.store import Store
from lab.core.store.rows import DatasetRow
from lab.data.formats import Conversation
from lab.data.reading import Tally, Verdict, lines_of
from lab.data.split import held_out_count

SHOWN_ROWS = 20
"""So many of the rows kept go into the verdict of an import, to be looked at."""


def import_dataset(
    path: Path,
    name: str,
    owner: str,
    store: Store,
    datasets_dir: Path,
    keep: Callable[[DatasetRow, Path], None] = lambda *_: None,
) -> tuple[DatasetRow, Verdict]:
    """Check a file and keep its good rows as a dataset of the lab.

    Args:
        path: the file that somebody brought.
        name: what to call the dataset.
        owner: whose it is.
        store: where it is listed.
        datasets_dir: the folder where its file goes, as `<name>.jsonl`.
        keep: brings the file to where other hosts find it, before it is listed.

    Returns:
        The listed dataset, and the verdict with the first rows kept and every bad row's reason.

    Raises:
        BadInput: the name or the file can't be used, or not one row is good. Nothing is written then.
        Conflict: there is a dataset of that name.
    """
    _check_name(name)
    try:
        datasets_dir.mkdir(parents=True, exist_ok=True)
        with _locked(datasets_dir), _draft_in(datasets_dir) as draft, ExitStack() as undo:
            if any(row.name == name for row in store.datasets.list()):
                seen = f"There is already a dataset {name!r}."
                raise Conflict(seen, "", "Choose another name.", field="name")
            verdict, sha256 = _write(path, draft)
            row = _row(name, owner, draft.stat().st_size, sha256, path, verdict)
            target = draft.replace(datasets_dir / f"{name}.jsonl")
            undo.callback(target.unlink, missing_ok=True)
            sync(datasets_dir)
            keep(row, target)
            listed = store.datasets.insert(row)
            undo.pop_all()
    except OSError as error:
        raise _disk_fault(error) from None
    return listed, verdict


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Yield the good rows of a dataset's file, one by one.

    Raises:
        BadInput: the file can't be read.
    """
    for line in lines_of(path):
        if line.conversation is not None:
            yield line.conversation


def _check_name(name: str) -> None:
    try:
        TypeAdapter(LabName).validate_python(name)
    except ValidationError:
        expected = "A name has 1 to 64 letters, digits, dots, dashes and underscores."
        raise BadInput(f"{name[:80]!r} can't be a dataset's name.", expected, "", field="name") from None


@contextmanager
def _draft_in(folder: Path) -> Iterator[Path]:
    """Make an empty file beside the target, and remove it unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".import-", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write(path: Path, draft: Path) -> tuple[Verdict, str]:
    """Write the good rows and bring them to the disk; return the verdict and the sha256."""
    with draft.open("wb") as out:
        verdict, sha256 = _copy_good_rows(path, out)
        out.flush()
        os.fsync(out.fileno())
    if not verdict.counts.kept:
        raise _no_good_row(path, verdict)
    return verdict, sha256


def _copy_good_rows(path: Path, out: BinaryIO) -> tuple[Verdict, str]:
    tally, digest = Tally(SHOWN_ROWS), hashlib.sha256()
    for line in lines_of(path):
        tally.add(line)
        if line.conversation is not None:
            raw = json.dumps({"messages": line.conversation}, ensure_ascii=False).encode() + b"\n"
            digest.update(raw)
            out.write(raw)
    return tally.verdict(), digest.hexdigest()


def _no_good_row(path: Path, verdict: Verdict) -> BadInput:
    expected = 'Each line is a JSON object with "instruction" and "output", or with "messages".'
    if not verdict.bad:
        return BadInput(
            f"{path.name} is empty.", expected, "Choose a file with at least one row.", field="file"
        )
    first = "; ".join(f"line {number}: {reason}" for number, reason in verdict.bad[:3])
    seen = f"Not one of the {verdict.counts.refused} rows of {path.name} can be used ({first})."
    return BadInput(seen, expected, "Mend the file and choose it again.", field="file")


def _disk_fault(error: OSError) -> BadInput:
    seen = f"The dataset can't be written: {error.strerror or error}."
    return BadInput(seen, "Nothing was kept of it.", "Free some disk space and try again.", field="file")


def _row(name: str, owner: str, size: int, sha256: str, path: Path, verdict: Verdict) -> DatasetRow:
    counts = verdict.counts
    facts = {
        "format": verdict.format,
        "rows": counts.kept,
        "refused": counts.refused,
        "repeated": counts.repeated,
        "held_out": held_out_count(counts.kept),
        "origin": path.name,
    }
    return DatasetRow(name, owner, facts, size, sha256, 0.0)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one import at a time write into the folder, over all processes of this machine."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
