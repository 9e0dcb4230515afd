"""Merges in memory: siblings' tensors are held, and the parameters of one resident model are merged in place.

The chunks are those of the engine that writes files, rounded to the same dtype, so that the model in
memory and the one that is kept have the same weights to the bit. Only for processes that run jobs.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch
from torch import Tensor

from lab.core.errors import BadInput, JobFailed
from lab.core.job import Device
from lab.merge.engine import keep_freed_memory, merged_chunks
from lab.merge.plan import MergePlan, OutputTensor
from lab.merge.reading import Memory, Reader, Scratch
from lab.merge.siblings import LiveRecipe
from lab.models.headers import TensorInfo
from lab.models.runtime import Loaded, ModelCache, load
from lab.models.source import Source

LOOK_SECONDS = 0.05
"""How often one who waits for a turn, or for the threads that merge, asks whether it is still wanted."""


class HeldReader(Reader):
    """Reads each stored tensor once and keeps it in memory, in the dtype of its file."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[Hashable, Tensor] = {}

    def flat(self, info: TensorInfo) -> Tensor:
        """Return a tensor's values in one dimension, from memory."""
        key = (info.file, info.start)
        if key not in self._held:
            self._held[key] = super().flat(info).clone()
            super().drop(info)
        return self._held[key]

    def expect(self, info: TensorInfo) -> None:
        """Nothing to read ahead."""

    def drop(self, info: TensorInfo) -> None:
        """Nothing to let go of: the next merge reads it again."""


class LiveModel:
    """One resident model that becomes any merge of its siblings. Any thread may ask.

    Those who want the recipe that stands share it; one who wants another waits until nobody uses it.

    Args:
        recipe: a merge of the siblings; its numbers don't matter yet.
        device: where the model computes. Merging is done by the CPU.
        loading: held while other models are loaded (`ModelCache.loading`); merging waits for it.

    Attributes:
        name: what it is, for people.
        size_bytes: what it takes in memory, the siblings included.
        loaded: the resident model; its weights are right inside `merged` only.
        merges: how many times it was merged anew.

    Raises:
        BadInput: the architecture's parameters are not the stored tensors.
        JobFailed: it is too large for the memory there is.
    """

    def __init__(self, recipe: LiveRecipe, device: Device, loading: "threading.Lock | None" = None) -> None:
        self.name = f"live merge of {', '.join(recipe.spec.models_used())}"
        _check_room(recipe, device)
        self.loaded = load(Source(recipe.name, recipe.plan.donor.folder), device)
        self._targets = _targets(recipe.plan, self.loaded)
        self.size_bytes = self.loaded.size_bytes + recipe.held_bytes
        self.merges = 0
        self._loading = loading or threading.Lock()
        self._reader = HeldReader()
        for info in recipe.tensors.values():
            self._reader.flat(info)
        self._memory = Memory()  # of what a method looks for before it merges
        self._local = threading.local()
        self._turn = threading.Condition()
        self._users, self._stands = 0, ""
        keep_freed_memory()

    @contextmanager
    def merged(
        self, recipe: LiveRecipe, *, threads: int = 1, breathe: Callable[[], None] = lambda: None
    ) -> Iterator[float]:
        """Make the resident model this merge for as long as the block runs.

        Args:
            recipe: a merge of the same siblings.
            threads: how many tensors to merge at a time.
            breathe: called while it waits or merges; what it raises passes.

        Yields:
            How many seconds the merging took; 0 where the model was this merge already.

        Raises:
            JobFailed: a weight is not finite, or the models differ in what can't be averaged.
        """
        stands = self._take_turn(recipe.sha256, breathe)
        try:
            seconds = 0.0 if stands else self._merge_anew(recipe, threads, breathe)
            yield seconds
        finally:
            with self._turn:
                self._users -= 1
                self._turn.notify_all()

    def _take_turn(self, sha256: str, breathe: Callable[[], None]) -> bool:
        """Count as a user; return whether the wanted recipe stands. If not, it is ours to merge."""
        with self._turn:
            while self._users and self._stands != sha256:
                self._turn.wait(LOOK_SECONDS)
                breathe()
            self._users += 1
            if self._stands == sha256:
                return True
            self._stands = ""  # half merged is no recipe
            return False

    def _merge_anew(self, recipe: LiveRecipe, threads: int, breathe: Callable[[], None]) -> float:
        while not self._loading.acquire(timeout=LOOK_SECONDS):
            breathe()
        begun = time.perf_counter()
        try:
            self._merge(recipe.plan, threads, breathe)
        finally:
            self._loading.release()
        self.merges += 1
        with self._turn:
            self._stands = recipe.sha256
            self._turn.notify_all()
        return time.perf_counter() - begun

    def _merge(self, plan: MergePlan, threads: int, breathe: Callable[[], None]) -> None:
        """Merge every tensor, the largest first, so that no thread is left alone with one at the end."""
        stop = threading.Event()

        def tick() -> None:
            if stop.is_set():
                raise _Stopped

        with ThreadPoolExecutor(max(1, threads), "live", _compute_alone) as pool:
            pending: set[Future[None]] = set()
            try:
                for tensor in sorted(plan.tensors, key=lambda tensor: -tensor.elements):
                    pending.add(pool.submit(self._merge_tensor, plan, tensor, tick))
                while pending:
                    done, pending = wait(pending, LOOK_SECONDS, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    breathe()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _merge_tensor(self, plan: MergePlan, tensor: OutputTensor, tick: Callable[[], None]) -> None:
        target = self._targets.get(tensor.name)
        if target is None:
            return
        if tensor.copied:
            _copy(tensor, target, self._reader)
            return
        at = 0
        for chunk in merged_chunks(
            plan, tensor, self._reader, self._scratch(plan), tick, memory=self._memory
        ):
            target[at : at + len(chunk)].copy_(chunk)
            at += len(chunk)

    def _scratch(self, plan: MergePlan) -> Scratch:
        """Return this thread's buffers."""
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch(max(len(tensor.inputs) for tensor in plan.tensors))
        scratch: Scratch = self._local.scratch
        return scratch


def open_live(recipe: LiveRecipe, cache: ModelCache, device: Device) -> LiveModel:
    """Return the resident model of a recipe's siblings, from the cache or loaded into it.

    Raises:
        BadInput, JobFailed: as `LiveModel`.
    """
    key = recipe.key(device.torch, device.dtype)
    return cache.keep(
        key, recipe.bytes_in(device.dtype), device, lambda: LiveModel(recipe, device, cache.loading)
    )


class _Stopped(Exception):
    """Ends the threads of a merge that is given up."""


def _compute_alone() -> None:
    """Tensors are merged side by side; OpenMP's own threads would spin between them."""
    torch.set_num_threads(1)


def _check_room(recipe: LiveRecipe, device: Device) -> None:
    need = recipe.bytes_in(device.dtype)
    if need > device.free_bytes:
        raise JobFailed(
            "out_of_memory",
            f"A live merge of these models takes {need / 1e9:.1f} GB; {device.words} has "
            f"{device.free_bytes / 1e9:.1f} GB free. Merge fewer or smaller models, or merge on disk.",
        )


def _targets(plan: MergePlan, loaded: Loaded) -> Mapping[str, Tensor]:
    """Return where each tensor of the plan goes: the model's parameters and buffers, flattened.

    Raises:
        BadInput: a parameter would not be merged, so that the model would be partly its donor.
    """
    model = loaded.model
    places = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    planned = {tensor.name: tensor.shape for tensor in plan.tensors}
    for name, parameter in model.named_parameters():
        if planned.get(name) != tuple(parameter.shape):
            raise BadInput(
                f"{plan.donor.ref} keeps its weights under other names than it computes with: {name}.",
                "A live merge writes each stored tensor into the parameter of the same name.",
                "Merge it on the Merge page.",
                field="models",
            )
    return {name: places[name].detach().view(-1) for name in planned if name in places}


def _copy(tensor: OutputTensor, target: Tensor, reader: Reader) -> None:
    """Copy a tensor that holds no floating point numbers, if all models agree on it."""
    first, *others = [reader.flat(part.info) for part in tensor.inputs]
    if any(not torch.equal(first, other) for other in others):
        raise JobFailed(
            "cannot_merge",
            f"The models differ in {tensor.name}, which holds {tensor.dtype} numbers and can't be "
            "averaged. Choose models that agree on it.",
        )
    target.copy_(first)
