"""The lab's memory: jobs, events, models, datasets, scores, workers, devices.

The only SQL of the project. What is named here is loaded when it is first used: a command without a lab,
such as a merge of folders, would wait half a second for SQLAlchemy.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.core.store.opening import START_SECONDS, Store, open_store
    from lab.core.store.queueing import NewJob
    from lab.core.store.success import Success

__all__ = ["START_SECONDS", "NewJob", "Store", "Success", "open_store"]

_PLACES = {"NewJob": "queueing", "Success": "success"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES.get(name, 'opening')}"), name)
