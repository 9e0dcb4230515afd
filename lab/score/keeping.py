"""Bring a file to score on into the lab: checked as it will be read, then kept as a dataset.

Runs in the web process; needs no model.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lab.core.errors import BadInput, Conflict
from lab.core.spec import LabName
from lab.core.store import Store
from lab.core.store.rows import DatasetRow
from lab.score.metric import Reads
from lab.score.tasks import read_documents, read_questions


def keep_file(
    path: Path,
    name: str,
    reads: Reads,
    owner: str,
    store: Store,
    folder: Path,
    keep: Callable[[DatasetRow, Path], None] = lambda *_: None,
) -> DatasetRow:
    """Check a file to score on and keep it under a name.

    Args:
        path: the file that somebody brought.
        name: what to call it.
        reads: whether its lines are questions ("choices") or texts ("text").
        owner: whose it is.
        store: where it is listed.
        folder: the folder of datasets, where it goes as `<name>.jsonl`.
        keep: brings the file to where other hosts find it, before it is listed.

    Raises:
        BadInput: the name can't be used, or the file has lines that can't be scored. Nothing is kept then.
        Conflict: there is a dataset of that name.
    """
    _check_name(name)
    rows = len(read_questions(path) if reads == "choices" else read_documents(path))
    if any(row.name == name for row in store.datasets.list()):
        raise Conflict(f"There is already a dataset {name!r}.", "", "Choose another name.", field="name")
    data = path.read_bytes()
    target = folder / f"{name}.jsonl"
    _write_whole(data, target)
    facts = {"format": reads, "items": rows, "origin": path.name}
    row = DatasetRow(name, owner, facts, len(data), hashlib.sha256(data).hexdigest(), 0.0)
    with ExitStack() as undo:
        undo.callback(target.unlink, missing_ok=True)
        keep(row, target)
        listed = store.datasets.insert(row)
        undo.pop_all()
    return listed


def _check_name(name: str) -> None:
    try:
        TypeAdapter(LabName).validate_python(name)
    except ValidationError:
        expected = "A name has 1 to 64 letters, digits, dots, dashes and underscores."
        raise BadInput(f"{name[:80]!r} can't be a dataset's name.", expected, "", field="name") from None


def _write_whole(data: bytes, target: Path) -> None:
    """Write a file so that it is there whole or not at all."""
    draft = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".keep-", delete=False) as out:
            draft = Path(out.name)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.link(draft, target)  # refuses to replace what somebody else has just kept
    except FileExistsError:
        raise Conflict(
            f"There is already a file {target.name}.", "", "Choose another name.", field="name"
        ) from None
    except OSError as error:
        raise BadInput(
            f"The file can't be kept: {error.strerror or error}.",
            "Nothing was kept of it.",
            "Free some disk space and try again.",
            field="file",
        ) from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
