"""Which checkpoints of a job can be trusted after a crash.

The trainer writes a checkpoint file by file. Only when all are on the disk does a list of them, with
their sizes and sha256, join them: a folder without a true list is a half-written one and is ignored.
"""

import hashlib
import json
import shutil
from pathlib import Path

from lab.core.files import sync

CHECKPOINTS = "checkpoints"
"""The folder of a job's checkpoints, in the job's own."""

COMPLETE = "complete.json"
PREFIX = "checkpoint-"


def mark_complete(checkpoint: Path) -> None:
    """Bring a checkpoint to the disk and list its files, so that a later attempt trusts it."""
    listed = {}
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name != COMPLETE:
            sync(file)
            listed[file.name] = [file.stat().st_size, _sha256(file)]
    draft = checkpoint / f"{COMPLETE}.tmp"
    draft.write_text(json.dumps(listed))
    sync(draft)
    draft.replace(checkpoint / COMPLETE)
    sync(checkpoint)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is as it was when the checkpoint was finished."""
    try:
        listed = json.loads((checkpoint / COMPLETE).read_text())
        return bool(listed) and all(
            (checkpoint / name).stat().st_size == size and _sha256(checkpoint / name) == sha256
            for name, (size, sha256) in listed.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def latest_complete(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be trusted; delete those that can't."""
    newest: Path | None = None
    for checkpoint in sorted(folder.glob(f"{PREFIX}*"), key=step_of):
        if is_complete(checkpoint):
            newest = checkpoint
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return newest


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written; -1 for a folder of another name."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if number.isdecimal() else -1


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
