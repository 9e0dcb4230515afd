"""lab/local: a job in this process, its voice, and results that appear whole or not at all."""

import io
from pathlib import Path

import pytest
from fakes import CPU, FakeShelf

from lab.core.errors import BadInput
from lab.core.job import NewModel
from lab.local import (
    LocalJob,
    Voice,
    check_out_dir,
    check_out_file,
    duration,
    put_file,
    put_models,
    work_beside,
)
from lab.score.spec import ScoreSpec

SPEC = ScoreSpec(models=("a",))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_file_gets_a_line_of_progress_now_and_then():
    stream, clock = io.StringIO(), Clock()
    voice = Voice(stream, clock=clock)
    for clock.now, fraction in ((0, 0.1), (1, 0.2), (4.9, 0.3), (5, 0.4)):
        voice.progress(fraction, "merging", 200)
    assert stream.getvalue() == " 10% merging, 3 min 20 s left\n 40% merging, 3 min 20 s left\n"


def test_a_terminal_gets_one_line_that_changes_and_notes_below_it():
    stream = Terminal()
    voice = Voice(stream)
    voice.progress(0.5, "half")
    voice.progress(1, "all")
    voice.say("done")
    assert stream.getvalue() == "\r\x1b[2K 50% half\r\x1b[2K100% all\ndone\n"


def test_quiet_says_nothing():
    stream = io.StringIO()
    voice = Voice(stream, is_quiet=True)
    voice.progress(0.5, "half")
    voice.say("done")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_read_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_a_local_job_tells_notes_and_finds_models_on_its_shelf(tmp_path, bench):
    stream = io.StringIO()
    job = LocalJob(tmp_path, CPU, FakeShelf(bench.root), Voice(stream))
    job.note("careful")
    job.breathe()
    assert stream.getvalue() == "careful\n"
    assert job.model("base") == bench.base
    assert not job.stop_asked()


def test_out_may_be_new_or_empty_but_nothing_else(tmp_path):
    check_out_dir(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    check_out_dir(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is there already"):
        check_out_dir(tmp_path / "file")
    with pytest.raises(BadInput, match="not empty"):
        check_out_dir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is there already"):
        check_out_dir(tmp_path / "link")
    with pytest.raises(BadInput, match="can't be written"):
        check_out_dir(tmp_path / "file" / "in_a_file")


def test_a_file_may_be_replaced_but_not_a_folder(tmp_path):
    (tmp_path / "old.json").write_text("old")
    check_out_file(tmp_path / "old.json")
    with pytest.raises(BadInput, match="is a folder"):
        check_out_file(tmp_path)


def interrupted(out: Path) -> None:
    with work_beside(out) as work:
        (work / "half").write_text("x")
        raise KeyboardInterrupt


def test_the_work_folder_goes_whatever_happens(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_one_model_becomes_the_out_folder_itself(tmp_path, tiny):
    (tmp_path / "out").mkdir()
    with work_beside(tmp_path / "out") as work:
        put_models(SPEC, (copied(tiny, work, "m"),), work, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert (tmp_path / "out" / "config.json").is_file()
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_several_models_become_folders_in_it(tmp_path, tiny):
    with work_beside(tmp_path / "out") as work:
        models = (copied(tiny, work, "one"), copied(tiny, work, "two"))
        put_models(SPEC, models, work, tmp_path / "out")
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["one", "two"]
    assert (tmp_path / "out" / "two" / "manifest.json").is_file()


def test_a_file_appears_whole(tmp_path):
    with work_beside(tmp_path / "f.json") as work:
        put_file("{}\n", work, tmp_path / "f.json")
    assert (tmp_path / "f.json").read_text() == "{}\n"
    assert len(list(tmp_path.iterdir())) == 1


def copied(tiny: Path, work: Path, name: str) -> NewModel:
    folder = work / f"made-{name}"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return NewModel(name, folder, "base")
