"""The walls of the house: who may import whom, and how large things may grow. Names file and line."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("lab", "workers", "app.py", "demo.py")

ROOMS = {  # room -> the rooms below it that it may import
    "core": set(),
    "models": {"core"},
    "data": {"core", "models"},
    "merge": {"core", "models", "data"},
    "tune": {"core", "models", "data"},
    "compare": {"core", "models", "data", "merge"},
    "score": {"core", "models", "data", "compare"},
    "search": {"core", "models", "data", "merge", "score"},
    "jobs": {"core", "models", "data", "merge", "tune", "compare", "score", "search"},
    "house": {"core", "models", "data", "merge", "tune", "compare", "score", "search", "jobs"},
    "local": {"core", "models", "data", "merge", "tune", "compare", "score", "search", "jobs"},
    "ui": {"core", "models", "data", "merge", "tune", "compare", "score", "search", "jobs", "house"},
    "grammar": {"core"},
    "cli": {
        "core",
        "models",
        "data",
        "merge",
        "tune",
        "compare",
        "score",
        "search",
        "jobs",
        "local",
        "grammar",
    },
    "__main__": {"core", "models", "cli"},
    "__init__": set(),
}
WORKERS_MAY = {"core", "models", "data", "merge", "tune", "compare", "score", "search", "jobs"}

ONLY_IN = {  # library -> where it may be imported
    "gradio": ("lab/ui/", "app.py"),
    "huey": ("workers/",),
    "sqlalchemy": ("lab/core/store/",),
    "alembic": ("lab/core/store/",),
    "sqlite3": ("lab/core/store/",),
}
WEB_NEVER = ("transformers", "peft", "trl", "bitsandbytes", "accelerate", "optuna", "cmaes")
PURE = (
    "lab/merge/methods/",
    "lab/score/metrics/",
    "lab/score/significance.py",
    "lab/tune/objectives",
    "lab/ui/charts.py",
)
IMPURE = {
    "os",
    "pathlib",
    "time",
    "datetime",
    "random",
    "logging",
    "subprocess",
    "socket",
    "tempfile",
    "shutil",
}


def product_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PRODUCT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [
        ROOT / name
        for name in names
        if name.endswith(".py") and "/migrations/" not in name and (ROOT / name).exists()
    ]


FILES = product_files()
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def is_for_types_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    tree = TREES[path]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node, name.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module
            if node.module == "lab":
                for name in node.names:
                    yield node, f"lab.{name.name}"


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "lab" else parts[0]


def test_rooms_import_only_the_rooms_below_them() -> None:
    wrong = []
    for path in FILES:
        room = room_of(path)
        for node, name in imports(path):
            parts = name.split(".")
            if parts[0] == "workers" and room not in ("workers", "app", "demo", "__main__"):
                wrong.append(f"{where(path, node)} imports {name}; only the entries may")
            if parts[0] == "lab" and len(parts) > 1 and room not in ("app", "demo"):
                allowed = WORKERS_MAY | {"workers"} if room == "workers" else ROOMS[room] | {room}
                if parts[1] not in allowed:
                    wrong.append(f"{where(path, node)} imports {name}; {room} may import {sorted(allowed)}")
            if parts[0] in ("app", "demo"):
                wrong.append(f"{where(path, node)} imports {name}; nothing may")
    assert not wrong, "\n".join(wrong)


def test_each_framework_stays_in_its_room() -> None:
    wrong = [
        f"{where(path, node)} imports {name}; it belongs in {ONLY_IN[name.split('.')[0]]}"
        for path in FILES
        for node, name in imports(path)
        if name.split(".")[0] in ONLY_IN
        and not str(path.relative_to(ROOT)).startswith(ONLY_IN[name.split(".")[0]])
    ]
    assert not wrong, "\n".join(wrong)


def test_only_settings_read_the_environment_and_only_two_modules_ask_for_cuda() -> None:
    wrong = []
    for path in FILES:
        text_path = str(path.relative_to(ROOT))
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Attribute):
                spelled = ast.unparse(node)
                if spelled in ("os.environ", "os.getenv") and text_path != "lab/core/settings.py":
                    wrong.append(f"{where(path, node)} reads the environment")
                if spelled == "torch.cuda" and text_path not in (
                    "workers/device.py",
                    "lab/models/runtime.py",
                ):
                    wrong.append(f"{where(path, node)} asks for CUDA")
    assert not wrong, "\n".join(wrong)


def test_the_core_knows_no_torch() -> None:
    wrong = [
        f"{where(path, node)} imports {name}"
        for path in FILES
        if room_of(path) == "core"
        for node, name in imports(path)
        if name.split(".")[0] in ("torch", "gradio", "huey", *WEB_NEVER)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_web_process_loads_no_training_library_and_no_torch_before_it_computes(tmp_path: Path) -> None:
    code = (
        "import sys; import app; from lab.core.store import open_store; from lab.jobs import KINDS\n"
        "settings = app.read_settings()\n"
        "app.build_web(app.build_services(settings, open_store(settings)))\n"
        "for kind in KINDS.values(): kind.load_check()\n"
        f"print([name for name in {('torch', *WEB_NEVER)!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-c", code],
        cwd=ROOT,
        env={**os.environ, "LAB_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_the_consumer_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "gradio")
    code = f"import sys; import workers.consumer; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    "path", [p for p in FILES if str(p.relative_to(ROOT)).startswith(PURE)], ids=lambda p: p.name
)
def test_pure_rooms_touch_no_file_clock_or_global_seed(path: Path) -> None:
    wrong = [
        f"{where(path, node)} imports {name}" for node, name in imports(path) if name.split(".")[0] in IMPURE
    ]
    wrong += [
        f"{where(path, node)} uses a global seed"
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.manual_seed", "random.seed", "np.random.seed")
    ]
    assert not wrong, "\n".join(wrong)


# Sizes --------------------------------------------------------------------------------------------


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = path.read_text().splitlines()[node.lineno - 1 : node.end_lineno]
    first = node.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        start, end = first.lineno - node.lineno, (first.end_lineno or first.lineno) - node.lineno
        lines = lines[:start] + lines[end + 1 :]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def test_no_function_passes_sixty_lines_or_eight_arguments() -> None:
    wrong = []
    for path in FILES:
        for node in functions(path):
            length = code_lines(path, node)
            taken = [arg.arg for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            arguments = len([name for name in taken if name not in ("self", "cls")])
            if length > 60:
                wrong.append(f"{where(path, node)} {node.name} has {length} lines of code; the bound is 60")
            if arguments > 8:
                wrong.append(f"{where(path, node)} {node.name} takes {arguments} arguments; the bound is 8")
    assert not wrong, "\n".join(wrong)


def test_ninety_five_in_a_hundred_functions_fit_in_forty_lines() -> None:
    lengths = sorted(code_lines(path, node) for path in FILES for node in functions(path))
    assert lengths[int(0.95 * len(lengths))] <= 40
    assert lengths[len(lengths) // 2] <= 10


def test_no_file_passes_five_hundred_lines() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} has {n} lines"
        for path in FILES
        if (n := len(path.read_text().splitlines())) > 500
    ]
    assert not wrong, "\n".join(wrong)


def test_public_things_have_docstrings() -> None:
    wrong = []
    for path in FILES:
        for node in TREES[path].body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if is_public and not ast.get_docstring(node):
                wrong.append(f"{where(path, node)} {node.name} has no docstring")
    assert not wrong, "\n".join(wrong)


def test_no_module_is_called_after_nothing() -> None:
    wrong = [
        path.name for path in FILES if re.fullmatch(r"(utils?|helpers?|common|misc|manager)\.py", path.name)
    ]
    assert not wrong, wrong


def test_only_the_runner_catches_everything() -> None:
    may = ("workers/runner.py", "lab/core/events.py")
    wrong = [
        where(path, node)
        for path in FILES
        if str(path.relative_to(ROOT)) not in may
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert not wrong, wrong
