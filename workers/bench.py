"""What a child process works with: settings, store, catalog, kinds of jobs, devices, warm models."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lab.core.job import Device, Outcome, Partner, Run
from lab.core.lastwords import log_of
from lab.core.settings import Settings
from lab.core.spec import JobSpec
from lab.core.store import Store
from lab.core.store.rows import JobRow
from workers.failpoints import Failpoints
from workers.lane import LanePlan
from workers.orders import DeviceFacts

if TYPE_CHECKING:
    from lab.models.catalog import Catalog


class RunsJobs(Protocol):
    """One kind of job, as the table of kinds describes it."""

    def load_run(self) -> Run:
        """Import the function that runs it."""
        ...


class HoldsModels(Protocol):
    """A cache of loaded models, as far as this room cares."""

    def names(self) -> tuple[str, ...]:
        """Return what is loaded now."""
        ...

    def size_bytes(self) -> int:
        """Return what it takes."""
        ...

    def clear(self) -> None:
        """Let go of everything."""
        ...


class ComputesOn(Protocol):
    """The device of one process, as far as this room cares; `name` is how the machine calls it."""

    name: str

    def own(self) -> Device:
        """Return the device, with the memory that is free now."""
        ...

    def words(self) -> tuple[str, ...]:
        """Return all devices of this machine for people to read, this process's first."""
        ...

    def partner(self, name: str) -> Partner:
        """Return another of this machine's devices, for a further process of a job that holds it too."""
        ...

    def facts(self) -> DeviceFacts:
        """Return the device for the table of devices."""
        ...


@dataclass
class Bench:
    """Everything a job's process needs, set up once.

    Attributes:
        settings: the lab's settings.
        store: a connection of this process's own.
        shelf: where names become places.
        kinds: how every kind of job is run.
        parse_spec: reads and re-validates a stored spec.
        devices: what this process computes on.
        failpoints: where a fault test strikes.
        cache: loaded models, in the engine only.
    """

    settings: Settings
    store: Store
    shelf: "Catalog"
    kinds: Mapping[str, RunsJobs]
    parse_spec: Callable[[Mapping[str, Any]], JobSpec]
    devices: ComputesOn
    failpoints: Failpoints
    cache: HoldsModels | None = None

    @classmethod
    def set_up(cls, settings: Settings, plan: LanePlan, slot: int) -> "Bench":
        """Keep to the device of our slot, open the store and import the kinds of jobs."""
        from lab.models.catalog import Catalog

        devices: ComputesOn = load(plan.devices)(settings, slot)
        jobs = importlib.import_module(plan.jobs)
        store = Store(settings.database, lease_seconds=plan.lease_seconds)
        return cls(
            settings=settings,
            store=store,
            shelf=Catalog(store, settings),
            kinds=jobs.KINDS,
            parse_spec=jobs.parse_spec,
            devices=devices,
            failpoints=Failpoints.parse(settings.failpoint, settings.data),
            cache=_new_cache(plan),
        )

    def folder_of(self, job_id: str) -> Path:
        """Return a job's own folder: logs, and work that survives a crash."""
        return self.settings.jobs / job_id

    def log_of(self, job_id: str, attempt: int) -> Path:
        """Return the file with everything an attempt printed, and its traceback."""
        return log_of(self.settings.jobs, job_id, attempt)

    def run_of(self, row: JobRow) -> Run:
        """Return the function that runs a job; one that can use warm models is given the cache."""
        run = self.kinds[row.kind].load_run()
        if self.cache is not None and "cache" in inspect.signature(run).parameters:
            return partial(cast(Callable[..., Outcome], run), cache=self.cache)
        return run

    def models_held(self) -> tuple[str, ...]:
        """Return the names of the models in memory."""
        return self.cache.names() if self.cache is not None else ()

    def bytes_held(self) -> int:
        """Return what the models in memory take."""
        return self.cache.size_bytes() if self.cache is not None else 0

    def forget_models(self) -> None:
        """Give the memory of the loaded models back; a job that computes with one keeps it until its end."""
        if self.cache is not None:
            self.cache.clear()


def load(path: str) -> Any:
    """Import `module:attribute`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _new_cache(plan: LanePlan) -> HoldsModels | None:
    if not (plan.keeps_engine and plan.cache):
        return None
    cache: HoldsModels = load(plan.cache)()
    return cache
