"""The grammar of the command line: every command with its arguments. Runs nothing."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from lab.core.spec import Lane

LANES: tuple[Lane, ...] = get_args(Lane)

_Add = Callable[[str, str], argparse.ArgumentParser]


def grammar(commands: Mapping[str, Callable[[Any], None]]) -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Args:
        commands: what runs each; the parsed arguments carry it as `run`.
    """
    top = argparse.ArgumentParser(prog="python -m lab", description="Every job of the lab without a browser.")
    subs = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        sub = subs.add_parser(name, help=words, description=words)
        sub.add_argument("--quiet", action="store_true", help="no progress on stderr")
        sub.set_defaults(run=commands[name])
        return sub

    _making(add)
    _asking(add)
    _keeping(add)
    return top


def _making(add: _Add) -> None:
    """Commands that make a model."""
    sub = add("merge", "Merge models as a mergekit YAML file says.")
    sub.add_argument("config", type=Path, metavar="CONFIG.yaml")
    sub.add_argument("out", type=Path, metavar="OUT_DIR")
    sub.add_argument("--seed", type=int, metavar="N", help="of methods that draw at random; the file's or 0")
    sub.add_argument(
        "--keep-intermediates",
        action="store_true",
        help="of a recipe of several documents, keep every merge: OUT_DIR holds a folder for each",
    )
    sub = add("moe", "Make a mixture of experts as a mergekit-moe YAML file says.")
    sub.add_argument("config", type=Path, metavar="CONFIG.yaml")
    sub.add_argument("out", type=Path, metavar="OUT_DIR")
    sub.add_argument(
        "--i-understand-this-is-not-useful-without-training", dest="untrained", action="store_true",
        help="make it although all experts or all prompts are the same",
    )  # fmt: skip
    sub = add("search", "Search for a merge's best numbers, and merge them.")
    sub.add_argument("spec", type=Path, metavar="SPEC.yaml")
    sub.add_argument("out", type=Path, metavar="OUT_DIR")
    sub = add("tune", "Fine-tune as a spec exported from the Fine-tune page says.")
    sub.add_argument("spec", type=Path, metavar="SPEC.yaml")
    sub.add_argument("out", type=Path, metavar="OUT_DIR")
    sub = add("import", "Check a model's folder, or read a GGUF file, and write it in place.")
    sub.add_argument("path", metavar="PATH")
    sub.add_argument("out", type=Path, metavar="OUT_DIR")


def _asking(add: _Add) -> None:
    """Commands that ask models or look at them."""
    sub = add("compare", "Have models answer the same prompts.")
    _add_models(sub, required=False)
    sub.add_argument(
        "--recipe", type=Path, action="append", default=[], metavar="CONFIG.yaml",
        help="a merge to answer too, made in memory; once for each",
    )  # fmt: skip
    asked = sub.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", metavar="TEXT")
    asked.add_argument("--prompts", type=Path, metavar="F.jsonl", help='{"prompt": text} a line')
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--max-new-tokens", type=int, default=256)
    sub.add_argument("--temperature", type=float, default=0.2)
    sub.add_argument("--out", type=Path, required=True, metavar="F.jsonl")
    sub = add("score", "Score models on multiple choice (accuracy) and text (bits per byte).")
    _add_models(sub)
    sub.add_argument(
        "--mc", metavar="F.jsonl", help="multiple choice; a set that ships when neither is given"
    )
    sub.add_argument("--text", metavar="F.jsonl", help="text; a set that ships when neither is given")
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    sub.add_argument("--out", type=Path, required=True, metavar="F.json")
    sub = add("inspect", "Say how models stand to a base, before merging; or a merge to its parents.")
    sub.add_argument("models", nargs="+", metavar="MODEL", help="a folder or a name of the lab")
    sub.add_argument("--base", required=True, metavar="M", help="what they were tuned from, or the merge")
    sub.add_argument("--after", action="store_true", help="the base is a merge, the models are its parents")
    sub.add_argument("--exact", action="store_true", help="read every weight, not a sample")


def _keeping(add: _Add) -> None:
    """Commands that keep the lab."""
    add("starter", "Fetch the starter model (93 MB, once) and check it.")
    sub = add("jobs", "List the lab's newest jobs.")
    sub.add_argument("--limit", type=int, default=20)
    sub = add("queue", "Show the line of waiting jobs; pause it or resume it.")
    sub.add_argument("verb", nargs="?", choices=["show", "pause", "resume"], default="show")
    sub.add_argument("--lane", choices=LANES, help="only one lane; all of them when not given")
    sub = add("backup", "Copy the lab, while it runs, to a folder or a URL that fsspec reaches.")
    sub.add_argument("place", metavar="PLACE")
    sub = add("restore", "Bring a backup into an empty lab.")
    sub.add_argument("place", metavar="PLACE")
    sub.add_argument("--snapshot", default="", metavar="NAME", help="an older one; the newest when not given")


def _add_models(sub: argparse.ArgumentParser, *, required: bool = True) -> None:
    sub.add_argument(
        "--model",
        action="append",
        required=required,
        default=[],
        metavar="M",
        help="a folder or a name of the lab; once for each model",
    )
