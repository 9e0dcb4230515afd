"""What a fine-tune's leader tells each companion, and how its end reads. Imports no model library."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

OUT_OF_MEMORY = 71
"""The exit code of a companion whose memory ran out."""


@dataclass(frozen=True)
class Errand:
    """One companion's part of a fine-tune.

    Attributes:
        rank, size: its place among the processes.
        leader: the leader's process, without which the companion ends.
        meeting: the file through which they find each other.
        spec: the fine-tune's spec, as JSON values.
        plan: the settled plan.
        device: the companion's device, as a table of its fields.
        base, data, checkpoints: the base model's folder, the dataset's file, where the leader saves.
        checkpoint: the one to go on from; "" to begin.
        threads: CPU threads to use.
    """

    rank: int
    size: int
    leader: int
    meeting: str
    spec: dict[str, Any]
    plan: dict[str, Any]
    device: dict[str, Any]
    base: str
    data: str
    checkpoints: str
    checkpoint: str
    threads: int

    @property
    def ready(self) -> Path:
        """The file that the companion makes when it is about to meet the others."""
        return Path(f"{self.meeting}.ready-{self.rank}")

    def as_line(self) -> bytes:
        """Return the errand as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read what `as_line` returned."""
        return cls(**json.loads(line))
