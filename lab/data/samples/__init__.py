"""The datasets that ship with the lab: written for it, small, each visible in a model within minutes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One dataset that ships with the lab.

    Attributes:
        name: what it is called in the lab.
        path: its JSONL file.
        words: what a model learns from it, one sentence.
    """

    name: str
    path: Path
    words: str


def sample_datasets() -> tuple[Sample, ...]:
    """Return the datasets that ship with the lab."""
    folder = Path(__file__).parent
    return (
        Sample(
            "pirate",
            folder / "pirate.jsonl",
            "Everyday questions answered in the voice of a pirate: the model's tone changes, arr.",
        ),
        Sample(
            "sums",
            folder / "sums.jsonl",
            "Small additions answered in one form: the model learns to say 'The sum is 12 + 7 = 19.'",
        ),
    )
