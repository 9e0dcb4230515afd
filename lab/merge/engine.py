"""The streaming engine: tensors in chunks through a merge method, straight into their place in the output.

Arithmetic is float32 and rounded once, at the end. A tensor is merged by one thread, in one order, so
the result is the same to the bit however many threads there are. Memory: a few buffers for each thread.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from lab.core.errors import JobFailed
from lab.core.job import Job
from lab.merge.draws import Draws
from lab.merge.gathering import first_share, gather
from lab.merge.output import ShardFile, lay_out, write_index
from lab.merge.plan import MergePlan, OutputTensor
from lab.merge.reading import CHUNK, Memory, Reader, Scratch, TensorStack
from lab.merge.statistics import Known
from lab.models.inspection import HEAD
from lab.models.weights import DTYPES

_REPORT_SECONDS = 0.25


class _Stopped(Exception):
    """Ends the threads of a merge that is given up."""


class Engine:
    """Writes the weights of one merge.

    Args:
        plan: what to write.
        work: a folder that survives a crash; the weights go to `work/model`.
        recipe: what the result is made from: shards of another recipe are written anew.
        threads: how many tensors to merge at a time.
        shard_bytes: the most bytes of data in one file.
        found: what the models were found to be by reading texts, for methods that ask for it.
    """

    def __init__(
        self,
        plan: MergePlan,
        work: Path,
        recipe: str,
        *,
        threads: int = 1,
        shard_bytes: int = 10**9,
        found: Callable[[OutputTensor], Known] | None = None,
    ) -> None:
        self.folder = work / "model"
        records = work / "done"
        for folder in (self.folder, records):
            folder.mkdir(parents=True, exist_ok=True)
        self._plan, self._threads = plan, max(1, threads)
        self._work, self._recipe = work, recipe
        self._known: dict[str, Known] = {}
        self._found = found
        # The head, which may be the largest, comes first: at the end, one thread would be left alone with it.
        tensors = sorted(plan.tensors, key=lambda tensor: tensor.name != HEAD)
        self.shards = lay_out(tensors, shard_bytes)
        self._files = [ShardFile(shard, self.folder, records, recipe) for shard in self.shards]
        self._reader = Reader()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._merged = 0  # elements written so far

    def run(self, job: Job) -> None:
        """Write every shard that is not finished yet, then the index.

        Raises:
            JobFailed: a weight is not finite, the disk is full, or a result is too large for its dtype.
            ControlFlow: the job was cancelled, released or fenced; finished shards stay.
        """
        todo = [file for file in self._files if not file.is_done()]
        elements = sum(t.elements for f in todo for t in f.shard.tensors)
        torch_threads = torch.get_num_threads()
        keep_freed_memory()
        torch.set_num_threads(1)  # we run tensors side by side; OpenMP's own threads would spin between them
        try:
            self._known = gather(self._plan, self._work, self._recipe, job, self._threads) if todo else {}
            self._progress = _Progress(self._plan.parameters, elements, job, first_share(self._plan))
            self._write_inline(todo, job) if self._threads == 1 else self._write_pooled(todo, job)
        except OSError as error:
            raise _disk_failed(error) from error
        finally:
            torch.set_num_threads(torch_threads)
            for file in self._files:
                file.close()
        write_index(self.shards, self.folder)

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of every finished weight file, by name."""
        return {file.shard.file: file.sha256 for file in self._files}

    def _write_inline(self, todo: list[ShardFile], job: Job) -> None:
        def tick() -> None:
            job.breathe()
            self._progress.tell(self._merged)

        for file in todo:
            file.open()
            for place in range(len(file.shard.tensors)):
                self._write(file, place, tick)
            file.finish()

    def _write_pooled(self, todo: list[ShardFile], job: Job) -> None:
        """Merge tensors of a shard side by side; the thread that finishes a shard's last tensor closes it."""
        with ThreadPoolExecutor(self._threads, "merge") as pool:
            futures: set[Future[None]] = set()
            try:
                for file in todo:
                    left = _Countdown(len(file.shard.tensors))
                    opened = _Once(file.open)
                    futures |= {
                        pool.submit(self._write_one, file, n, opened, left) for n in range(left.count)
                    }
                while futures:
                    done, futures = wait(futures, timeout=_REPORT_SECONDS, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    job.breathe()
                    self._progress.tell(self._merged)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    def _write_one(self, file: ShardFile, place: int, opened: "_Once", left: "_Countdown") -> None:
        self._tick()
        opened()
        self._write(file, place, self._tick)
        file.settle(place)
        if left.is_last():
            file.finish()

    def _tick(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _write(self, file: ShardFile, place: int, tick: Callable[[], None]) -> None:
        """Merge one tensor and write it in place."""
        tensor = file.shard.tensors[place]
        parts = (*tensor.inputs, tensor.base) if tensor.base else tensor.inputs
        for part in parts:
            self._reader.expect(part.info)
        if tensor.copied:
            self._copy(tensor, file, file.shard.starts[place])
        else:
            self._merge(tensor, file, file.shard.starts[place], tick)
        for part in parts:
            self._reader.drop(part.info)

    def _merge(self, tensor: OutputTensor, file: ShardFile, at: int, tick: Callable[[], None]) -> None:
        known = self._found(tensor) if self._found else self._known.get(tensor.name)
        for rounded in merged_chunks(self._plan, tensor, self._reader, self._scratch(), tick, known):
            file.write(at, rounded.view(torch.uint8).numpy())
            at += rounded.numel() * rounded.element_size()
            with self._lock:
                self._merged += rounded.numel()

    def _copy(self, tensor: OutputTensor, file: ShardFile, at: int) -> None:
        """Copy a tensor that holds no floating point numbers, if all models agree on it."""
        first, *others = [self._reader.flat(part.info) for part in tensor.inputs]
        if any(not torch.equal(first, other) for other in others):
            raise JobFailed(
                "cannot_merge",
                f"The models differ in {tensor.name}, which holds {tensor.dtype} numbers and can't be "
                "averaged. Choose models that agree on it.",
            )
        for piece in first.split(CHUNK):
            file.write(at, piece.contiguous().view(torch.uint8).numpy())
            at += piece.numel() * piece.element_size()
        with self._lock:
            self._merged += tensor.elements

    def _scratch(self) -> Scratch:
        """Return this thread's buffers."""
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch(max(len(tensor.inputs) for tensor in self._plan.tensors))
        scratch: Scratch = self._local.scratch
        return scratch


def merged_chunks(
    plan: MergePlan,
    tensor: OutputTensor,
    reader: Reader,
    scratch: Scratch,
    tick: Callable[[], None],
    known: Known | None = None,
    memory: Memory | None = None,
) -> Iterator[Tensor]:
    """Merge one tensor in float32 and yield it in the result's dtype, chunk after chunk.

    Args:
        plan: what the tensor belongs to.
        tensor: what to merge; not one that is copied.
        reader: where the models' values come from.
        scratch: this thread's buffers; a chunk lies in them and is yours only until the next.
        tick: called before each chunk of each pass; may raise to stop.
        known: what a first pass over many tensors found out, for methods that have one.
        memory: keeps what is found out about one tensor, where the same models are merged often.

    Raises:
        JobFailed: a weight is not finite, or a result is too large for its dtype.
    """
    is_late = plan.method.shows_faults  # what is wrong in a model is seen in the result, and looked for then
    stack = TensorStack(tensor, reader, scratch, tick, memory, is_trusted=is_late)
    knobs = {**tensor.knobs, **({} if known is None else {"known": known})}
    draws = Draws(plan.seed, tensor.name)
    for merged in plan.method.stream(stack, torch.tensor(tensor.weights), knobs, draws):
        size, rounded, values = len(merged), scratch.rounded(DTYPES[tensor.dtype]), merged
        if stack.base is not None:
            values = torch.add(merged, stack.base, out=scratch.merged[:size])
        rounded[:size].copy_(values)
        # Only float16 is narrower than float32, whose sum takes a third of the time.
        if not _is_finite(rounded[:size] if rounded.dtype == torch.float16 else values):
            if is_late:
                stack.look()
            raise _blown_up(tensor)
        yield rounded[:size]


class _Progress:
    """Tells the owner how far the merge is, a few times a second at most."""

    def __init__(self, total: int, todo: int, job: Job, begins: float) -> None:
        self._total, self._todo, self._job, self._begins = max(1, total), todo, job, begins
        self._start = self._last = time.monotonic()

    def tell(self, merged: int) -> None:
        now = time.monotonic()
        if now - self._last < _REPORT_SECONDS:
            return
        self._last = now
        left = (now - self._start) * (self._todo - merged) / merged if merged else None
        done = self._total - self._todo + merged
        words = f"{done / 1e6:,.0f} of {self._total / 1e6:,.0f} million parameters"
        self._job.progress(self._begins + (1 - self._begins) * done / self._total, words, left)


class _Once:
    """Calls a function at the first call, whichever thread makes it; the others wait for it."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            function, self._function = self._function, None
            if function:
                function()


class _Countdown:
    """Tells the last of several threads that it is the last."""

    def __init__(self, count: int) -> None:
        self.count = self._left = count
        self._lock = threading.Lock()

    def is_last(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0


def _is_finite(values: torch.Tensor) -> bool:
    """Whether all merged values are finite.

    A sum is finite only when all numbers are, and cheap; where finite ones overflow it, the exact test
    decides.
    """
    return isfinite(values.sum(dtype=torch.float32).item()) or bool(values.isfinite().all())


def _blown_up(tensor: OutputTensor) -> JobFailed:
    if tensor.dtype == "F16":
        return JobFailed(
            "overflow",
            f"The merged values of {tensor.name} are too large for float16. Choose bfloat16 or float32.",
        )
    return JobFailed(
        "not_finite",
        f"The merged values of {tensor.name} are NaN or infinite, though every model's are finite: the "
        "weights or knobs blow them up. Choose smaller weights.",
    )


def keep_freed_memory() -> None:
    """Have glibc keep freed chunks instead of giving them back to the system.

    It raises its bounds for that to the size of the largest block freed so far, up to 32 MiB. Without
    this, every temporary of a chunk is mapped, zeroed and unmapped anew, which costs more than the
    arithmetic. Other allocators don't mind.
    """
    del_me = torch.empty(30 << 20, dtype=torch.uint8)
    del del_me


def _disk_failed(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobFailed(
            "disk_full",
            "The disk is full. Finished parts of the merge are kept; delete models that you don't need, "
            "then retry.",
        )
    return JobFailed("disk", f"A file can't be read or written: {os.strerror(error.errno or 0)}.")
