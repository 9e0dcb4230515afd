"""What the processes of one fine-tune do together: meet, agree, share the frozen weights out.

One of them leads (rank 0): it decides, saves and tells; the others compute beside it. With one process
everything here is nothing. Knows not how the others are started (team).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from lab.core.settings import lent_environment

PATIENCE = timedelta(minutes=30)
"""So long a process waits for the others: while the leader evaluates or writes a checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among those of a fine-tune.

    Attributes:
        rank: which one it is; 0 leads.
        size: how many there are.
        device: where this one computes, in torch's words.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process decides, saves and tells."""
        return self.rank == 0

    def agree(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """Return the leader's answers to yes-or-no questions, the same in every process."""
        if self.size == 1:
            return tuple(flags)
        told = torch.tensor([int(flag) for flag in flags], dtype=torch.uint8, device=self.device)
        dist.broadcast(told, src=0)
        return tuple(bool(flag) for flag in told.tolist())

    def all_say(self, flag: bool) -> bool:
        """Whether the answer is yes in every process."""
        if self.size == 1:
            return flag
        told = torch.tensor([int(flag)], dtype=torch.uint8, device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MIN)
        return bool(told.item())


ALONE = Ranks()
"""A fine-tune of one process."""


@contextmanager
def meeting(ranks: Ranks, place: Path) -> Iterator[None]:
    """Meet the other processes for as long as the context lasts; transformers' Trainer finds them there.

    The environment is what `accelerate launch` would have set, but each process sees one device only,
    and they find each other through a file, so that no port is open to anybody.

    Args:
        ranks: our place among them.
        place: a file of this machine, the same for all of them.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    backend = "nccl" if ranks.device.startswith("cuda") else "gloo"
    with lent_environment(environment(ranks)):
        store = FileStore(str(place), ranks.size)
        dist.init_process_group(
            backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
        )
        try:
            yield
        finally:
            dist.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)


def environment(ranks: Ranks) -> Mapping[str, str]:
    """Return what accelerate and the backends read of a process's place among the others."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        "RANK": str(ranks.rank),
        "WORLD_SIZE": str(ranks.size),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",  # accelerate asks for it; we have met by then
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        **({} if ranks.device.startswith("cuda") else {"ACCELERATE_USE_CPU": "true"}),
    }


def share_out(model: Any, ranks: Ranks) -> Any:
    """Let every process keep its share of the frozen weights only (FSDP), layer by layer.

    The trained matrices stay whole in each process and their gradients are averaged, as DDP does it: they
    are few, and so an adapter and a checkpoint are the same files for any number of processes.

    Args:
        model: a PEFT model on the CPU; changed in place.
        ranks: our place among the processes.

    Returns:
        The model, its shares on the device.
    """
    if ranks.size == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh(ranks.device.partition(":")[0], (ranks.size,))
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(model, mesh=mesh, ignored_params=trained)
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)
    return model.to(ranks.device)


def _layers(model: Any) -> list[Any]:
    """Return the blocks that a model says are never cut, which are its decoder layers."""
    whole = set(model.get_base_model()._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in whole]
