"""Import this before Gradio: it then starts a second sooner.

Gradio parses the source of each of its components while it is imported, to bring the type stubs beside
them up to date. Nothing at run time reads those; the ones that its wheel brings stay as they are.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODULE = "gradio.component_meta"


class _NoStubs(MetaPathFinder):
    """Load the module that makes Gradio's components, and let it write no stubs."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's own spec, whose loader then replaces one function."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _MODULE else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_without_stubs(module: ModuleType) -> None:
            load(module)
            vars(module)["create_or_modify_pyi"] = lambda *_: None

        vars(spec.loader)["exec_module"] = load_without_stubs
        return spec


sys.meta_path.insert(0, _NoStubs())
