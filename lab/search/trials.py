"""What a search has tried: numbers and scores, one JSON object a line, in a file that survives a crash."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes:
        number: from 1; the first is the recipe as it was given.
        values: the moving numbers, by name.
        score: what it scored; None where such a merge can't be made.
    """

    number: int
    values: Mapping[str, float]
    score: float | None


def best_of(trials: Sequence[Trial], *, higher_is_better: bool) -> Trial | None:
    """Return the best trial, of equal ones the first; nothing where none has a score."""
    scored = [(trial.score, trial) for trial in trials if trial.score is not None]
    if not scored:
        return None
    sign = -1.0 if higher_is_better else 1.0
    return min(scored, key=lambda pair: (sign * pair[0], pair[1].number))[1]


def is_out_of_patience(trials: Sequence[Trial], patience: int, *, higher_is_better: bool) -> bool:
    """Whether the last `patience` trials brought nothing better; 0 waits for ever."""
    best = best_of(trials, higher_is_better=higher_is_better)
    last_good = best.number if best else 0
    return patience > 0 and len(trials) - last_good >= patience


class TrialFile:
    """The trials of one search, in the order of their numbers, without gaps.

    Args:
        path: the file; made with the first trial.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Trial]:
        """Return the trials that were kept; a line that was cut off by a crash is none."""
        kept: list[Trial] = []
        for line in self._path.read_text("utf-8").splitlines() if self._path.exists() else ():
            try:
                trial = Trial(**json.loads(line))
            except (ValueError, TypeError):
                break
            if trial.number != len(kept) + 1:
                break
            kept.append(trial)
        return kept

    def write(self, trials: Sequence[Trial]) -> None:
        """Write these trials in place of all others, whole or not at all."""
        part = self._path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            file.writelines(_line(trial) for trial in trials)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def add(self, trial: Trial) -> None:
        """Keep one more trial."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(trial))
            file.flush()
            os.fsync(file.fileno())


def _line(trial: Trial) -> str:
    return json.dumps(asdict(trial)) + "\n"
