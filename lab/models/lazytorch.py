"""torch, loaded when it is first used: `from lab.models.lazytorch import Tensor, torch`.

For modules that the page imports for what they say about themselves (a merge method's knobs, a metric's
name) and not to compute. Loading torch takes more than a second, which the first page would wait for.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor
else:

    class _Lazy(ModuleType):
        """Stands for a module until something of it is used."""

        def __getattr__(self, name: str) -> object:
            import torch

            self.__dict__.update(torch.__dict__)  # from now on nothing comes by here
            return getattr(torch, name)

    torch = _Lazy("torch")
    Generator = Tensor = Any

__all__ = ["Generator", "Tensor", "torch"]
