"""How many CPU threads a job may use: the cores, shared among the jobs that run."""

import os

from lab.core.settings import Settings


def all_threads(settings: Settings) -> int:
    """Return the CPU threads that one job alone may use: LAB_THREADS, or the cores we may run on."""
    if settings.threads:
        return settings.threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_threads(settings: Settings, running: int) -> int:
    """Return the CPU threads for each of the jobs that run now; LAB_THREADS is each job's own."""
    return settings.threads or max(1, all_threads(settings) // max(1, running))
