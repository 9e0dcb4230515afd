"""Merges of a 0.5B model against mergekit 0.1.5: CPU seconds, memory, and that the results agree.

Both run as commands on the same files and the same recipe, in turns, with one thread. mergekit lives in
a virtual environment of its own, `.mergekit-venv`, made at the first run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.table import Row

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".mergekit-venv"
PINS = ("torch==2.13.0", "mergekit==0.1.5")
SHARD_BYTES = 300_000_000
OWN_MIB = 500
FEWER = {"linear": 3.0, "ties": 8.0}
"""How many times fewer CPU seconds than mergekit each method should take."""


STARTER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps({"cpu_seconds": usage.ru_utime + usage.ru_stime, "rss_mib": usage.ru_maxrss / 1024}))
sys.exit(bool(status))
"""
"""Runs a command and prints what it took."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a random Llama checkpoint."""

    hidden: int
    mlp: int
    layers: int
    vocab: int
    heads: int = 16
    kv_heads: int = 4


HALF_BILLION = Shape(hidden=1024, mlp=3584, layers=32, vocab=49_152)
TINY = Shape(hidden=64, mlp=96, layers=2, vocab=512)


@dataclass(frozen=True)
class Run:
    """What one command took: CPU seconds of user and system, and its peak resident memory."""

    cpu_seconds: float
    rss_mib: float


def measure(shape: Shape = HALF_BILLION, times: int = 2) -> list[Row]:
    """Merge three fine-tunes of one base both ways, and compare.

    Args:
        shape: how large the models are.
        times: how often each command runs; the best run counts.
    """
    reason = install()
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as name:
        room = Path(name)
        for place, model in enumerate(("base", "one", "two", "three")):
            write_model(room / model, shape, seed=place)
        rows = []
        for method in FEWER:
            rows += compare(room, method, times, reason)
        return rows


def compare(room: Path, method: str, times: int, reason: str) -> list[Row]:
    """Run one method both ways, in turns, and return what came of it."""
    recipe = room / f"{method}.yaml"
    recipe.write_text(recipe_for(room, method))
    ours, theirs = [], []
    for _ in range(times):
        shutil.rmtree(room / "ours", ignore_errors=True)
        ours.append(timed([sys.executable, "-m", "lab", "merge", str(recipe), str(room / "ours"), "--quiet"]))
        if not reason:
            shutil.rmtree(room / "theirs", ignore_errors=True)
            theirs.append(timed(mergekit_command(recipe, room / "theirs")))
    idle = timed([sys.executable, "-c", "import lab.cli, lab.merge.run"])
    best = min(ours, key=lambda run: run.cpu_seconds)
    own = max(run.rss_mib for run in ours) - idle.rss_mib
    rows = [Row(f"{method}, memory of its own", f"{own:.0f} MiB", f"under {OWN_MIB} MiB", own < OWN_MIB)]
    what = f"{method}, CPU seconds against mergekit 0.1.5"
    target = f"at least {FEWER[method]:g} times fewer"
    if reason:
        return [*rows, Row(what, "not measured", target, note=reason)]
    other = min(theirs, key=lambda run: run.cpu_seconds)
    factor = other.cpu_seconds / best.cpu_seconds
    return [
        Row(
            what,
            f"{factor:.1f} times fewer",
            target,
            factor >= FEWER[method],
            f"{best.cpu_seconds:.1f} s to {other.cpu_seconds:.1f} s, one thread",
        ),
        *rows,
        Row(f"{method}, peak memory", f"{best.rss_mib:.0f} MiB", note=f"mergekit {other.rss_mib:.0f} MiB"),
        agreement(room / "ours", room / "theirs", method),
    ]


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
    program = str(VENV / "bin" / "mergekit-yaml")
    return [program, str(recipe), str(out), "--no-copy-tokenizer", "-j", "1", "--quiet"]


def timed(command: list[str]) -> Run:
    """Run a command and return what it took, its children included.

    A small process starts it: a child's peak memory counts what its parent held when it was started.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAB_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    starter = [sys.executable, "-S", "-c", STARTER, *command]
    done = subprocess.run(starter, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def recipe_for(room: Path, method: str) -> str:
    """Return the recipe: linear with weights of 0.3, ties with weights of 0.4 and density 0.5."""
    weight = {"linear": 0.3, "ties": 0.4}[method]
    models = "".join(
        f"  - model: {room / model}\n    parameters: {{weight: {weight}}}\n"
        for model in ("one", "two", "three")
    )
    extra = f"base_model: {room / 'base'}\nparameters: {{density: 0.5}}\n" if method == "ties" else ""
    return f"models:\n{models}merge_method: {method}\n{extra}dtype: bfloat16\n"


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
    note = f"largest difference {largest:.1e}; mergekit computes deltas in bfloat16, we in float32"
    return Row(f"{method}, elements equal to mergekit's", f"{equal / total:.1%}", note=note)


def tensors_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each tensor's name and the file that holds it."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            yield from ((name, file) for name in tensors.keys())  # noqa: SIM118  it is no mapping


def write_model(folder: Path, shape: Shape, seed: int) -> None:
    """Write a random bf16 Llama: seed 0 is the base, others are it plus noise of a tenth of its scale."""
    folder.mkdir()
    base, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, sizes in shapes_of(shape).items():
        values = torch.randn(sizes, generator=base) * 0.02
        if seed:
            values += torch.randn(sizes, generator=noise) * 0.002
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = values.bfloat16()
    weight_map = {}
    for place, shard in enumerate(shards, 1):
        file = f"model-{place:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config_of(shape)))
    (folder / "tokenizer.json").write_text("{}")


def shapes_of(shape: Shape) -> Mapping[str, tuple[int, ...]]:
    """Return the tensors of an untied Llama."""
    hidden, mlp = shape.hidden, shape.mlp
    keys = hidden // shape.heads * shape.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab, hidden)}
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        shapes |= {
            f"{stem}.input_layernorm.weight": (hidden,),
            f"{stem}.self_attn.q_proj.weight": (hidden, hidden),
            f"{stem}.self_attn.k_proj.weight": (keys, hidden),
            f"{stem}.self_attn.v_proj.weight": (keys, hidden),
            f"{stem}.self_attn.o_proj.weight": (hidden, hidden),
            f"{stem}.post_attention_layernorm.weight": (hidden,),
            f"{stem}.mlp.gate_proj.weight": (mlp, hidden),
            f"{stem}.mlp.up_proj.weight": (mlp, hidden),
            f"{stem}.mlp.down_proj.weight": (hidden, mlp),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (shape.vocab, hidden)}


def config_of(shape: Shape) -> dict[str, object]:
    """Return the checkpoint's config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
