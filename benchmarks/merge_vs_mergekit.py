"""Merges against mergekit 0.1.5, of 0.5B models or smaller: CPU seconds cold and warm, memory, agreement.

    python -m benchmarks.merge_vs_mergekit [--methods ties,sce] [--times 1] [--shape small] [--room FOLDER]
    python -m benchmarks.merge_vs_mergekit --seven

Both run as commands on the same files and the same recipe, in turns, with one thread. "Cold" is the whole
command; "warm" is what it took after its imports. Wall seconds are those of ours with all cores, beside
reading the same inputs and copying as many bytes as the output has. mergekit lives in a virtual environment
of its own, `.mergekit-venv`, made at the first run. --seven merges models of 7B shape here alone, to see the
memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from benchmarks.checkpoints import HALF_BILLION, SEVEN_BILLION, SMALL, Shape, write_linked, write_model
from benchmarks.table import Row, table

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".mergekit-venv"
PINS = ("torch==2.13.0", "mergekit==0.1.5")
OWN_MIB = 500
MODELS = ("base", "one", "two", "three")


@dataclass(frozen=True)
class Contest:
    """One method as it is compared.

    Attributes:
        fewer: how many times fewer CPU seconds than mergekit it should take, cold and warm; 0 is not asked.
        models: the models besides the base.
        weight: each model's weight, where it has one.
        base: whether the base is named.
        knobs: the recipe's parameters, in YAML.
        walls: how many times the wall seconds of copying as many bytes it may take; 0 is not asked.
        sampled: whether chance decides, so that results can't be equal.
    """

    fewer: float
    models: int = 3
    weight: float = 0.4
    base: bool = True
    knobs: str = ""
    walls: float = 0.0
    sampled: bool = False


CONTESTS = {
    "linear": Contest(3, weight=0.3, base=False, walls=2),
    "passthrough": Contest(0, models=1, weight=0, base=False, walls=2),
    "slerp": Contest(5, models=1, weight=0, knobs="t: 0.4"),
    "model_stock": Contest(3, weight=0),
    "dare_ties": Contest(5, knobs="density: 0.5", sampled=True),
    "breadcrumbs": Contest(5, knobs="density: 0.5, gamma: 0.05"),
    "ties": Contest(10, knobs="density: 0.5", walls=5),
    "sce": Contest(10, weight=0, knobs="select_topk: 0.2"),
    "della": Contest(10, knobs="density: 0.5", sampled=True),
    "nuslerp": Contest(0, models=2, base=False),
    "multislerp": Contest(0),
    "karcher": Contest(0, weight=0, base=False),
    "nearswap": Contest(0, models=1, weight=0, knobs="t: 0.001"),
    "ram": Contest(0, weight=0),
    "arcee_fusion": Contest(0, models=1, weight=0, sampled=True),
}
SHAPES = {"half": HALF_BILLION, "small": SMALL}
STANDARD = ("linear", "ties")
"""What `make bench` compares; the rest is asked for by name."""

WRAPPER = """
import json, os, resource, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
told = process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
wall, cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
warm = [line.split()[1:] for line in told.splitlines() if line.startswith("warm ")]
warm_cpu, warm_wall = map(float, warm[-1]) if warm else (cpu, wall)
print(json.dumps({"cpu_seconds": cpu, "warm_seconds": warm_cpu, "rss_mib": usage.ru_maxrss / 1024,
    "wall_seconds": wall, "warm_wall_seconds": warm_wall}))
sys.exit(bool(status))
"""
"""Runs a command and prints what it took. A small process: a child's peak memory counts its parent's."""

OURS = """
import gc; gc.disable()
import os, sys, time
from lab.__main__ import _find_devices, _new_cache, _words_for
from lab.cli import Machine, main
import torch, lab.merge.run
mark, begun = time.process_time(), time.monotonic()
code = main(sys.argv[1:], Machine(_find_devices, _words_for, _new_cache))
print("warm", time.process_time() - mark, time.monotonic() - begun)
sys.stdout.flush()
os._exit(code)
"""
"""`python -m lab merge`, told apart in imports and the rest; it ends as that command does."""

THEIRS = """
import sys, time
from mergekit.scripts.run_yaml import main
import mergekit.merge, mergekit.plan, transformers
mark, begun = time.process_time(), time.monotonic()
main(sys.argv[1:], standalone_mode=False)
print("warm", time.process_time() - mark, time.monotonic() - begun)
"""


@dataclass(frozen=True)
class Run:
    """What one command took: CPU seconds of user and system, wall seconds, and its peak resident memory.

    The warm seconds are those after its imports.
    """

    cpu_seconds: float
    warm_seconds: float
    rss_mib: float
    wall_seconds: float
    warm_wall_seconds: float


def measure(
    methods: Sequence[str] = STANDARD,
    times: int = 2,
    shape: Shape = HALF_BILLION,
    room: Path | None = None,
) -> list[Row]:
    """Merge fine-tunes of one base both ways, and compare.

    Args:
        methods: which, of CONTESTS.
        times: how often each command runs; the best run counts.
        shape: how large the models are.
        room: where the models lie or are made, and stay; a folder that is removed when not given.
    """
    reason = install()
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as name:
        place = room or Path(name)
        place.mkdir(exist_ok=True)
        for seed, model in enumerate(MODELS):
            if not (place / model / "tokenizer.json").exists():
                write_model(place / model, shape, seed)
        rows = []
        for method in methods:
            found = compare(place, method, times, reason)
            print(table(method, "so far", found), file=sys.stderr, flush=True)
            rows += found
        return rows


def compare(room: Path, method: str, times: int, reason: str) -> list[Row]:
    """Run one method both ways, in turns, and return what came of it."""
    contest, recipe = CONTESTS[method], room / f"{method}.yaml"
    recipe.write_text(recipe_for(room, method))
    ours, theirs = [], []
    for _ in range(times):
        shutil.rmtree(room / "ours", ignore_errors=True)
        ours.append(timed([sys.executable, "-c", OURS, *_arguments(recipe, room / "ours")]))
        if not reason:
            shutil.rmtree(room / "theirs", ignore_errors=True)
            theirs.append(timed(mergekit_command(recipe, room / "theirs")))
    best = min(ours, key=lambda run: run.cpu_seconds)
    rows = [_memory_row(method, max(run.rss_mib for run in ours))]
    if contest.walls:
        rows += _wall_rows(room, method, recipe, times)
    if reason:
        return [*rows, Row(f"{method}, against mergekit 0.1.5", "not measured", note=reason)]
    other = min(theirs, key=lambda run: run.cpu_seconds)
    return [
        _factor_row(f"{method}, cold", best.cpu_seconds, other.cpu_seconds, contest.fewer),
        _factor_row(f"{method}, warm", best.warm_seconds, other.warm_seconds, contest.fewer),
        *rows,
        Row(f"{method}, peak memory", f"{best.rss_mib:.0f} MiB", note=f"mergekit {other.rss_mib:.0f} MiB"),
        agreement(room / "ours", room / "theirs", method),
    ]


def seven(room: Path) -> list[Row]:
    """Merge three links to a model of 7B shape by TIES, and see the memory: 27 GB of disk while it runs."""
    write_model(room / "base", SEVEN_BILLION, seed=0)
    for model in MODELS[1:]:
        write_linked(room / model, room / "base")
    recipe = room / "ties.yaml"
    recipe.write_text(recipe_for(room, "ties"))
    run = timed([sys.executable, "-c", OURS, *_arguments(recipe, room / "ours")])
    took = Row("7B ties", f"{run.cpu_seconds:.0f} CPU s", note=f"{run.wall_seconds:.0f} s wall, one thread")
    return [_memory_row("7B ties", run.rss_mib), took]


def install() -> str:
    """Make mergekit's environment where it is missing; return why it can't be had, or nothing."""
    if (VENV / "ready").exists():
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        for pin in PINS:
            print(f"Installing {pin} for the comparison ...", file=sys.stderr, flush=True)
            pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", pin]
            subprocess.run(pip, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"mergekit could not be installed: {error}"
    (VENV / "ready").touch()
    return ""


def mergekit_command(recipe: Path, out: Path) -> list[str]:
    """Return the command that merges with mergekit on one thread."""
    python = str(VENV / "bin" / "python")
    return [python, "-c", THEIRS, str(recipe), str(out), "--no-copy-tokenizer", "-j", "1", "--quiet"]


def timed(command: list[str], threads: int = 1) -> Run:
    """Run a command and return what it took, its children included."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAB_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    wrapped = [sys.executable, "-S", "-c", WRAPPER, *command]
    done = subprocess.run(wrapped, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[-400:]} failed:\n{done.stderr[-4000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def recipe_for(room: Path, method: str) -> str:
    """Return the recipe in mergekit's YAML."""
    contest = CONTESTS[method]
    lines = ["models:"]
    for model in MODELS[1 : contest.models + 1]:
        lines.append(f"  - model: {room / model}")
        if contest.weight:
            lines.append(f"    parameters: {{weight: {contest.weight}}}")
    if contest.base:
        lines.append(f"base_model: {room / 'base'}")
    if contest.knobs:
        lines.append(f"parameters: {{{contest.knobs}}}")
    return "\n".join([*lines, f"merge_method: {method}", "dtype: bfloat16", ""])


def agreement(ours: Path, theirs: Path, method: str) -> Row:
    """Compare the two results: the share of elements that are equal, and the largest difference."""
    equal = total = 0
    largest = 0.0
    left, right = dict(tensors_of(ours)), dict(tensors_of(theirs))
    if left.keys() != right.keys():
        return Row(f"{method}, agreement", "different tensors", is_met=False)
    for name, (file, other) in {name: (left[name], right[name]) for name in left}.items():
        a, b = (safe_open(path, "pt").get_tensor(name).float() for path in (file, other))
        equal += int((a == b).sum())
        total += a.numel()
        largest = max(largest, float((a - b).abs().max()))
    why = "chance decides" if CONTESTS[method].sampled else "mergekit computes in bfloat16, we in float32"
    return Row(
        f"{method}, elements equal to mergekit's",
        f"{equal / total:.1%}",
        note=f"largest difference {largest:.1e}; {why}",
    )


def tensors_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each tensor's name and the file that holds it."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            yield from ((name, file) for name in tensors.keys())  # noqa: SIM118  it is no mapping


def copy_seconds(room: Path, method: str) -> float:
    """Return how long it takes to read a merge's inputs and to write and sync its output, nothing more."""
    contest = CONTESTS[method]
    models = (*MODELS[1 : contest.models + 1], *(MODELS[:1] if contest.base else ()))
    start = time.monotonic()
    for model in models[1:]:
        for file in sorted((room / model).glob("*.safetensors")):
            with file.open("rb", buffering=0) as handle:
                buffer = bytearray(1 << 22)
                while handle.readinto(buffer):
                    pass
    (room / "copy").mkdir()
    subprocess.run(["cp", "-r", f"{room / models[0]}/.", str(room / "copy")], check=True)
    for file in (room / "copy").glob("*.safetensors"):
        subprocess.run(["sync", str(file)], check=True)
    took = time.monotonic() - start
    shutil.rmtree(room / "copy")
    return took


def _arguments(recipe: Path, out: Path) -> list[str]:
    return ["merge", str(recipe), str(out), "--quiet"]


def _factor_row(what: str, ours: float, theirs: float, fewer: float) -> Row:
    factor = theirs / ours
    return Row(
        f"{what}, CPU seconds against mergekit 0.1.5",
        f"{factor:.1f} times fewer",
        f"at least {fewer:g} times fewer" if fewer else "",
        factor >= fewer if fewer else None,
        f"{ours:.1f} s to {theirs:.1f} s, one thread",
    )


def _memory_row(method: str, peak_mib: float) -> Row:
    idle = timed([sys.executable, "-c", "import lab.cli, lab.merge.run"])
    own = peak_mib - idle.rss_mib
    return Row(f"{method}, memory of its own", f"{own:.0f} MiB", f"under {OWN_MIB} MiB", own < OWN_MIB)


def _wall_rows(room: Path, method: str, recipe: Path, times: int) -> list[Row]:
    plain, runs, cores = copy_seconds(room, method), [], os.cpu_count() or 1
    for _ in range(times):
        shutil.rmtree(room / "ours", ignore_errors=True)
        runs.append(timed([sys.executable, "-c", OURS, *_arguments(recipe, room / "ours")], cores))
    most = CONTESTS[method].walls
    return [
        Row(
            f"{method}, {kind}, wall seconds on {cores} cores against copying as many bytes",
            f"{wall / plain:.1f} times",
            f"at most {most:g} times",
            wall <= most * plain,
            f"{wall:.1f} s to {plain:.1f} s",
        )
        for kind, wall in (
            ("cold", min(run.wall_seconds for run in runs)),
            ("warm", min(run.warm_wall_seconds for run in runs)),
        )
    ]


def main() -> int:
    """Compare the methods that were asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(STANDARD), help="a list with commas, or all")
    parser.add_argument("--times", type=int, default=1, help="how often each runs; the best counts")
    parser.add_argument("--shape", choices=SHAPES, default="half", help="half is 0.54B, small 0.14B")
    parser.add_argument("--room", type=Path, help="where the models lie or are made, and stay")
    parser.add_argument("--seven", action="store_true", help="merge models of 7B shape here alone")
    args = parser.parse_args()
    if args.seven:
        with tempfile.TemporaryDirectory(prefix="merge-bench-", dir=args.room) as room:
            rows = seven(Path(room))
    else:
        methods = list(CONTESTS) if args.methods == "all" else args.methods.split(",")
        rows = measure(methods, args.times, SHAPES[args.shape], args.room)
    command = " ".join(["python -m benchmarks.merge_vs_mergekit", *sys.argv[1:]])
    print(table("merges against mergekit", command, rows))
    return int(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
