"""How an attempt ends, in words: from the exception that ended it, or from its process's exit code."""

import errno
import signal
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from lab.core.errors import BadInput, Cancelled, JobFailed, OutOfMemory, ProcessLost, Released, problems_of
from lab.core.job import PARTNER_LOST
from lab.core.lastwords import LastWords
from lab.core.store.second_chances import DEVICE, MEMORY, ON_CPU, SMALLER, Loss

MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
DEVICE_WORDS = (
    "illegal memory access",
    "device-side assert",
    "launch failure",
    "launch timed out",
    "misaligned address",
    "illegal instruction",
    "uncorrectable",
    "hardware stack",
    "gpu is lost",
    "unknown error",
)
"""What CUDA says after which nothing in the process can compute on the device any more."""
DISK_WORDS = ("no space left on device", "storagefull", "disk quota exceeded")
DISK_FAULTS = {
    errno.EIO: "A disk of the lab answered with an error (input/output error).",
    errno.EROFS: "A disk of the lab can only be read, not written.",
}
"""What a disk says when something else than its space is wrong."""
_BROKE = "a library that it uses crashed"
SIGNALS_MEAN = {
    "SIGKILL": "the system may have run out of memory",
    "SIGSEGV": _BROKE,
    "SIGBUS": _BROKE,
    "SIGABRT": _BROKE,
    "SIGFPE": _BROKE,
    "SIGILL": "a library that it uses needs another processor",
}
"""What a signal that nobody of the lab sent most likely says."""


@dataclass(frozen=True)
class Ending:
    """What became of an attempt that did not succeed.

    Attributes:
        verb: cancelled by its owner; released by a worker that shuts down; failed.
        code: a short stable word for a failure.
        text: what its owner reads.
        field: the form field at fault, where there is one.
        smaller: where memory ran out, the smaller plan that there is, in words.
        lost: which of the attempt's processes was lost, in words: it is tried again.
    """

    verb: Literal["cancelled", "released", "failed"]
    code: str = ""
    text: str = ""
    field: str | None = None
    smaller: str = ""
    lost: str = ""

    @property
    def is_internal(self) -> bool:
        """Whether the fault is the lab's own."""
        return self.code == "internal"


def ending_of(error: BaseException) -> Ending:
    """Say how an attempt ended that raised this."""
    if isinstance(error, Cancelled):
        return Ending("cancelled")
    if isinstance(error, Released):
        return Ending("released")
    if isinstance(error, OutOfMemory):
        return Ending("failed", error.code, str(error), smaller=error.smaller)
    if isinstance(error, ProcessLost):
        return Ending("failed", error.code, str(error), lost=error.why)
    if isinstance(error, JobFailed):
        return Ending("failed", error.code, str(error))
    if isinstance(error, BadInput):
        return Ending("failed", "bad_input", str(error), error.field)
    if isinstance(error, ValidationError):
        problems = problems_of(error)
        return Ending("failed", "bad_input", " ".join(map(str, problems)), problems[0].field or None)
    return _ending_by_the_machine(error) or Ending("failed", "internal", _INTERNAL_TEXT)


def ending_for_deleted(model: str) -> Ending:
    """Say how a job ended that lost a model which it was using."""
    return Ending(
        "failed",
        "model_deleted",
        f"The model {model!r} was deleted while this job used it. Nothing was published. "
        "Choose another model, or make that one again.",
    )


def words_for_exit(exit_code: int | None) -> str:
    """Say how a process ended: "its process was killed (SIGTERM)", "its process ended with code 3"."""
    if exit_code is None:
        return "its process did not end"
    name = name_of_exit(exit_code)
    if exit_code == PARTNER_LOST:
        return "one of its further processes was lost"
    if exit_code >= 0:
        return f"its process ended with {name}"
    return "; ".join(
        part for part in (f"its process was killed ({name})", SIGNALS_MEAN.get(name, "")) if part
    )


def name_of_exit(exit_code: int | None) -> str:
    """Name the end of a process: "SIGKILL", "code 3"; empty when it has not ended."""
    if exit_code is None:
        return ""
    if exit_code >= 0:
        return f"code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def loss_of(ending: Ending, on_gpu: bool, last_words: LastWords) -> Loss | None:
    """Return how an attempt was lost that may be tried again; None for an ending that is for good.

    Args:
        ending: how it ended.
        on_gpu: whether it computed on one: where that is too small, the CPU may do.
        last_words: what its process left.
    """
    if ending.code == DEVICE:
        return Loss("the GPU failed under it", DEVICE, ending.text, last_words=last_words)
    if ending.lost:
        return Loss(ending.lost, ending.code, ending.text, last_words=last_words)
    if ending.code != MEMORY or not (ending.smaller or on_gpu):
        return None
    plan = ending.smaller or "on the CPU"
    why = f"its memory ran out; it is tried again {plan}"
    thrift = SMALLER if ending.smaller else ON_CPU
    return Loss(why, MEMORY, ending.text, crashes=0, last_words=last_words, thrift=thrift)


def text_for_crash(why: str) -> str:
    """Say to the owner of a job that can't go on midway what happened and what to do."""
    return f"The job was cut off: {why}. What it had said so far is kept. Run it again."


def text_for_memory_kill(need_bytes: int, total_bytes: int) -> str:
    """Say to the owner of a job that it took more memory than there was, against what was expected."""
    expected = f"It was expected to need {need_bytes / 2**30:.1f} GB. " if need_bytes else ""
    return (
        f"The system killed the job's process because memory ran out. {expected}"
        f"This machine has {total_bytes / 2**30:.1f} GB in all. Nothing was published. "
        "Choose a smaller model, shorter rows or a smaller batch, or wait until other jobs are done."
    )


def _ending_by_the_machine(error: BaseException) -> Ending | None:
    """Say how an attempt ended for which disk, memory or GPU did not do; None where it was something else."""
    if _is_about_disk(error):
        return Ending("failed", "disk_full", _DISK_TEXT)
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        return Ending("failed", "disk_fault", f"{DISK_FAULTS[error.errno]} {_DISK_FAULT_TEXT}")
    if _is_about_memory(error):
        return Ending("failed", "out_of_memory", _MEMORY_TEXT)
    if _is_about_a_device(error):
        return Ending("failed", "device_lost", _DEVICE_TEXT)
    return None


def _is_about_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return _says(error, DISK_WORDS)


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and _says(error, MEMORY_WORDS)


def _is_about_a_device(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _says(error, ("cuda error",)) and _says(error, DEVICE_WORDS)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


_DISK_TEXT = (
    "The disk is full. Nothing of this job was published and its temporary files are removed. "
    "Free some space, for instance by deleting models on the Models page, and run it again."
)
_DISK_FAULT_TEXT = (
    "Nothing of this job was published and its temporary files are removed. "
    "Whoever looks after this machine should see to its disk; run the job again then."
)
_MEMORY_TEXT = (
    "The job needed more memory than this machine has free. Nothing was published. "
    "Choose a smaller model, a shorter context or a smaller batch, or wait until other jobs are done."
)
_DEVICE_TEXT = (
    "The GPU failed while the job ran on it. Nothing was published. "
    "Whoever looks after this machine should see to it; run the job again then."
)
_INTERNAL_TEXT = (
    "Something in the lab itself went wrong; your input is probably fine. Nothing was published. "
    "The job's log has the details. Run it again, and report it with the log if it stays."
)
