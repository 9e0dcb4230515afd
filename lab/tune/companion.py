"""The further processes of a fine-tune (`python -m lab.tune.companion`), each on a device of its own.

A companion reads its errand from standard input, follows the leader step by step and saves nothing. It
knows no database, and dies with the leader, whatever either of them is doing at that moment.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from lab.core.settings import enter_child_environment
from lab.tune.errand import OUT_OF_MEMORY, Errand

PR_SET_PDEATHSIG = 1
"""Linux: the signal that this process gets when its parent ends (prctl(2))."""


def main() -> None:
    """Do one errand. The exit code says where memory ran out; any other but 0 that we were lost."""
    enter_child_environment()
    errand = Errand.from_line(sys.stdin.buffer.readline())
    _die_with(errand.leader)
    try:
        _follow(errand)
    except (RuntimeError, MemoryError) as error:
        from lab.models.runtime import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        traceback.print_exc()
        sys.exit(OUT_OF_MEMORY)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing of this process is worth tidying up


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
