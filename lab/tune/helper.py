"""The further processes of a fine-tune (`python -m lab.tune.helper`): each computes on a device of its own.

A helper reads its errand from standard input, follows the leader step by step and saves nothing. It
knows no database, and dies with the leader, whatever either of them is doing at that moment.
"""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from lab.core.settings import enter_child_environment
from lab.tune.errand import OUT_OF_MEMORY, Errand

PR_SET_PDEATHSIG = 1
"""Linux: the signal that this process gets when its parent ends (prctl(2))."""


def main() -> None:
    """Do one errand. Never returns: nothing of this process is worth tidying up."""
    enter_child_environment()
    errand = Errand.from_line(sys.stdin.buffer.readline())
    _die_with(errand.leader)
    code = 1
    try:
        _follow(errand)
        code = 0
    except Exception as error:
        print(f"Process {errand.rank + 1} of {errand.size}: {error}", file=sys.stderr)  # noqa: T201  the job's log
        code = _code_of(error)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if code != 1:
            os._exit(code)


def _code_of(error: Exception) -> int:
    from lab.models.runtime import is_out_of_memory

    return OUT_OF_MEMORY if is_out_of_memory(error) else 1


def _die_with(leader: int) -> None:
    """Have the kernel kill us with the leader; where it can't, the end of our standard input does it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader decides
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != leader:  # it was gone before we asked
        os._exit(1)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="leader").start()


def _follow(errand: Errand) -> None:
    import torch

    from lab.core.job import Device
    from lab.data.encoding import load_tokenizer
    from lab.tune.batches import load_rows
    from lab.tune.follow import follow
    from lab.tune.plan import Plan
    from lab.tune.ranks import Ranks, meeting
    from lab.tune.spec import TuneSpec

    torch.set_num_threads(errand.threads)
    spec, plan, device = TuneSpec(**errand.spec), Plan(**errand.plan), Device(**errand.device)
    ranks = Ranks(errand.rank, errand.size, device.torch)
    tokenizer = load_tokenizer(Path(errand.base))
    rows = load_rows(Path(errand.data), tokenizer, spec.held_out, lambda: None).cut(plan.max_length)
    errand.ready.touch()
    with meeting(ranks, Path(errand.meeting)):
        follow(errand, spec, plan, device, tokenizer, rows, ranks)


if __name__ == "__main__":
    main()
