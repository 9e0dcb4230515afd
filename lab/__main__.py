"""`python -m lab ...`: wires the command line to this machine."""

import gc

gc.disable()  # importing torch makes objects that stay: collecting among them only takes time

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from lab.cli import Machine, main  # noqa: E402
from lab.core.job import Device  # noqa: E402
from lab.core.settings import Settings, enter_child_environment  # noqa: E402


def _find_devices(settings: Settings) -> Sequence[Device]:
    import torch

    from workers.device import Devices
    from workers.threads import all_threads

    torch.set_num_threads(all_threads(settings))
    return [Devices(settings).own()]  # it hides the other GPUs: a job uses one


def _words_for(error: BaseException) -> str:
    from workers.endings import ending_of

    return ending_of(error).text


def _new_cache() -> Any:
    from lab.models.runtime import ModelCache

    return ModelCache()


if __name__ == "__main__":
    enter_child_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a kill clears up like Ctrl-C
    gc.freeze()
    gc.enable()
    code = main(sys.argv[1:], Machine(_find_devices, _words_for, _new_cache))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is written; taking torch down object by object only takes time
