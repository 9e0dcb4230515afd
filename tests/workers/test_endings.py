"""Every way an attempt can end is told in words."""

import errno

import pytest
from pydantic import ValidationError

from lab.core.errors import BadInput, Cancelled, JobFailed, NotFound, ProcessLost, Released
from lab.core.job import PARTNER_LOST
from lab.core.lastwords import LastWords
from lab.core.spec import JobSpec
from workers.endings import ending_of, loss_of, name_of_exit, words_for_exit


class Narrow(JobSpec):
    steps: int


def refused() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Narrow.model_validate({"kind": "x", "steps": "many"})
    return caught.value


@pytest.mark.parametrize(
    ("error", "verb", "code"),
    [
        (Cancelled(), "cancelled", ""),
        (Released(), "released", ""),
        (BadInput("a"), "failed", "bad_input"),
        (NotFound("gone"), "failed", "bad_input"),
        (JobFailed("nan_loss", "The loss is not a number."), "failed", "nan_loss"),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "failed", "disk_full"),
        (Exception('I/O error: Os { code: 28, kind: StorageFull, message: "..." }'), "failed", "disk_full"),
        (MemoryError(), "failed", "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "failed", "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "failed", "out_of_memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            "failed",
            "out_of_memory",
        ),
        (OSError(errno.EIO, "Input/output error"), "failed", "disk_fault"),
        (OSError(errno.EROFS, "Read-only file system"), "failed", "disk_fault"),
        (OSError(errno.EACCES, "Permission denied"), "failed", "internal"),
        (KeyError("memory"), "failed", "internal"),
        (KeyboardInterrupt(), "failed", "internal"),
    ],
)
def test_an_exception_is_an_ending(error: BaseException, verb: str, code: str) -> None:
    ending = ending_of(error)
    assert (ending.verb, ending.code) == (verb, code)


def test_bad_input_keeps_its_sentences_and_its_field() -> None:
    ending = ending_of(BadInput("We saw 3.", "We expected 4.", "Write 4.", field="steps"))
    assert (ending.text, ending.field) == ("We saw 3. We expected 4. Write 4.", "steps")


def test_a_refused_spec_names_the_field() -> None:
    ending = ending_of(refused())
    assert (ending.code, ending.field) == ("bad_input", "steps")
    assert ending.text.startswith("steps: ")


def test_a_bug_tells_its_owner_nothing_of_the_inside() -> None:
    assert "secret" not in ending_of(KeyError("secret")).text


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (-9, "its process was killed (SIGKILL); the system may have run out of memory"),
        (-11, "its process was killed (SIGSEGV); a library that it uses crashed"),
        (-15, "its process was killed (SIGTERM)"),
        (-200, "its process was killed (signal 200)"),
        (3, "its process ended with code 3"),
        (0, "its process ended with code 0"),
        (None, "its process did not end"),
    ],
)
def test_an_exit_code_is_told_in_words(exit_code: int | None, words: str) -> None:
    assert words_for_exit(exit_code) == words


@pytest.mark.parametrize(
    ("exit_code", "name"), [(-9, "SIGKILL"), (-200, "signal 200"), (3, "code 3"), (None, "")]
)
def test_an_exit_code_has_a_name_for_the_record(exit_code: int | None, name: str) -> None:
    assert name_of_exit(exit_code) == name


def test_a_lost_process_beside_a_job_s_own_is_tried_again_and_counts_as_a_crash() -> None:
    ending = ending_of(ProcessLost("process 2 of the 2 that trained together was killed (signal 9)"))
    loss = loss_of(ending, False, LastWords())
    assert loss is not None
    assert (loss.code, loss.crashes) == ("interrupted", 1)
    assert loss.why == "process 2 of the 2 that trained together was killed (signal 9)"
    assert words_for_exit(PARTNER_LOST) == "one of its further processes was lost"
