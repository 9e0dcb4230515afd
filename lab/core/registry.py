"""Named things that a folder of small files provides: merge methods, metrics, tuning methods.

A registry knows names and lookups. It knows nothing of what it holds.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from lab.core.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping of names to things of one kind, filled by the modules of one package.

    Args:
        what: the word for one of them in messages, such as "merge method".
        package: the package whose modules register things; imported at the first lookup,
            all but the module that has the name looked up only where that doesn't register it.
    """

    def __init__(self, what: str, package: str | None = None) -> None:
        self.what = what
        self._package = package
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Register one thing.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._things:
            raise ValueError(f"There is already a {self.what} named {name!r}; give this one another name.")
        self._things[name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            self._look_for(name)
        try:
            return self._things[name]
        except KeyError:
            raise UnknownName.among(self.what, name, self._things) from None

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._things))

    def values(self) -> list[T]:
        """Return all things, sorted by name."""
        return [self[name] for name in self]

    def _look_for(self, name: str) -> None:
        """Import the module of that name, which is enough for most, or else all."""
        if self._package is not None and name.isidentifier():
            with suppress(ModuleNotFoundError):
                importlib.import_module(f"{self._package}.{name}")
        if name not in self._things:
            self._discover()

    def _discover(self) -> None:
        if self._package is None:
            return
        package, self._package = importlib.import_module(self._package), None
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
