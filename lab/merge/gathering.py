"""Takes a method's first pass over the files of a whole merge: round by round, group by group.

Tensors are read side by side, and their figures summed in the order of the plan, so the sums are the same
to the bit however many threads there are. What was summed is kept in the job's folder and gone on from.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.core.job import Job
from lab.merge.plan import MergePlan, OutputTensor
from lab.merge.reading import Reader, Scratch, TensorStack
from lab.merge.statistics import FirstPass, Known

KEEP_SECONDS = 10.0
"""So much reading may have to be done again after a crash."""

_WAIT_SECONDS = 0.25
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Group:
    """Tensors that are counted together: same scope and layer, same knobs, same models.

    Attributes:
        tensors: in the order of the plan.
    """

    tensors: list[OutputTensor] = field(default_factory=list)


class _Stopped(Exception):
    """Ends the threads of a pass that is given up."""


def groups_of(plan: MergePlan) -> list[Group]:
    """Divide the tensors that need figures of other tensors among groups, in the plan's order."""
    first, groups = plan.method.statistics, dict[tuple[object, ...], Group]()
    for tensor in plan.tensors:
        if first is None or tensor.copied or not first.rounds_for(tensor.knobs):
            continue
        match = _LAYER.search(tensor.name) if first.scope(tensor.knobs) == "layer" else None
        alone = tensor.name if first.scope(tensor.knobs) == "layer" and match is None else ""
        layer = match[1] if match else alone
        models = tuple(part.model.ref for part in tensor.inputs)
        key = (layer, models, tensor.weights, tuple(sorted(tensor.knobs.items())))
        groups.setdefault(key, Group()).tensors.append(tensor)
    return list(groups.values())


def first_share(plan: MergePlan) -> float:
    """Return the share of a merge's time that goes by before a tensor is merged."""
    return (plan.first_seconds + plan.reading_seconds) / plan.seconds


def gather(plan: MergePlan, work: Path, recipe: str, job: Job, threads: int = 1) -> dict[str, Known]:
    """Return what every tensor's group is known to be, by the tensor's name.

    Args:
        plan: what will be merged; a method without a first pass has nothing to gather.
        work: a folder that survives a crash.
        recipe: what is being made; sums for another recipe don't count.
        job: is asked now and then whether to go on, and told how far it is.
        threads: how many tensors to read at a time.

    Raises:
        JobFailed: a weight is not finite.
        ControlFlow: the job was cancelled, released or fenced; the sums so far stay.
    """
    groups, first = groups_of(plan), plan.method.statistics
    if first is None or not groups:
        return {}
    state = _State(work / "first-pass.safetensors", recipe)
    told = _Progress(job, first_share(plan))
    readers = _Readers(plan, job, max(1, threads))
    work.mkdir(parents=True, exist_ok=True)
    todo = [(index, tensor) for index, group in enumerate(groups) for tensor in group.tensors]
    for number in range(state.round, first.rounds):
        for place, figures in readers.figures(first, todo, state, number):
            index, _ = todo[place]
            state.add(index, figures, place + 1)
            told.tell((number + (place + 1) / len(todo)) / first.rounds)
        settled = [
            first.settle(state.sums[index], group.tensors[0].knobs, state.known_of(index), number)
            for index, group in enumerate(groups)
        ]
        state.close(settled)
    return {tensor.name: state.known_of(index) for index, tensor in todo}


class _Progress:
    """Tells the owner how far the first pass is, a few times a second at most."""

    def __init__(self, job: Job, share: float) -> None:
        self._job, self._share = job, share
        self._start = self._last = time.monotonic()

    def tell(self, done: float) -> None:
        """Tell that this part of the first pass is done, from 0 to 1."""
        now = time.monotonic()
        if now - self._last < _WAIT_SECONDS:
            return
        self._last = now
        left = (now - self._start) * (1 / (self._share * done) - 1)  # the merge itself comes after it
        self._job.progress(self._share * done, f"Comparing the models, {done:.0%}", left)


class _Readers:
    """Threads that take the figures of tensors, handed out in order."""

    def __init__(self, plan: MergePlan, job: Job, threads: int) -> None:
        self._job, self._threads = job, threads
        self._reader, self._local = Reader(), threading.local()
        self._stop = threading.Event()
        self._models = max(len(tensor.inputs) for tensor in plan.tensors)

    def figures(
        self, first: FirstPass, todo: Sequence[tuple[int, OutputTensor]], state: "_State", number: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield place and figures of every tensor from the state's place on."""
        places = range(state.place, len(todo))

        def read(place: int) -> Tensor:
            index, tensor = todo[place]
            tick = self._job.breathe if self._threads == 1 else self._tick
            return first.read(self._stack(tensor, tick), tensor.knobs, state.known_of(index), number)

        if self._threads == 1:
            yield from ((place, read(place)) for place in places)
            return
        with ThreadPoolExecutor(self._threads, "first-pass") as pool:
            try:
                yield from self._in_order(pool, read, places)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._stop = threading.Event()

    def _in_order(
        self, pool: ThreadPoolExecutor, read: Callable[[int], Tensor], places: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Run a few reads ahead, and hand their figures out in order."""
        ahead: list[tuple[int, Future[Tensor]]] = []
        left = list(reversed(places))
        while left or ahead:
            while left and len(ahead) < 4 * self._threads:
                place = left.pop()
                ahead.append((place, pool.submit(read, place)))
            wait([ahead[0][1]], timeout=_WAIT_SECONDS)
            self._job.breathe()
            while ahead and ahead[0][1].done():
                place, future = ahead.pop(0)
                yield place, future.result()

    def _stack(self, tensor: OutputTensor, tick: Callable[[], None]) -> TensorStack:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch(self._models)
        return TensorStack(tensor, self._reader, self._local.scratch, tick)

    def _tick(self) -> None:
        if self._stop.is_set():
            raise _Stopped


class _State:
    """The sums of the round under way and what is known from those before, in memory and in a file."""

    def __init__(self, file: Path, recipe: str) -> None:
        self._file, self._recipe = file, recipe
        self.round = self.place = 0
        self.sums: dict[int, Tensor] = {}
        self._known: dict[int, Known] = {}
        self._kept = time.monotonic()
        self._load()

    def known_of(self, group: int) -> Known:
        """Return what is known of a group."""
        return self._known.get(group, {})

    def add(self, group: int, figures: Tensor, place: int) -> None:
        """Add a tensor's figures; `place` is that of the next tensor."""
        self.sums[group] = self.sums[group] + figures if group in self.sums else figures
        self.place = place
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self._keep()

    def close(self, settled: Sequence[Known]) -> None:
        """End the round with what it settled."""
        self._known, self.sums = dict(enumerate(settled)), {}
        self.round, self.place = self.round + 1, 0
        self._keep()

    def _keep(self) -> None:
        tensors = {f"sum/{group}": total for group, total in self.sums.items()}
        for group, known in self._known.items():
            tensors |= {f"known/{group}/{name}": value for name, value in known.items()}
        facts = {"recipe": self._recipe, "round": str(self.round), "place": str(self.place)}
        draft = self._file.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in tensors.items()}, draft, facts)
        draft.rename(self._file)
        self._kept = time.monotonic()

    def _load(self) -> None:
        """Go on from the file, where it is whole and of this recipe."""
        try:
            with safe_open(self._file, "pt") as file:
                facts: Mapping[str, str] = file.metadata() or {}
                if facts.get("recipe") != self._recipe:
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (OSError, SafetensorError, json.JSONDecodeError):
            return
        self.round, self.place = int(facts["round"]), int(facts["place"])
        known: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, group, *rest = name.split("/")
            if kind == "sum":
                self.sums[int(group)] = value
            else:
                known.setdefault(int(group), {})[rest[0]] = value
        self._known = dict(known)
