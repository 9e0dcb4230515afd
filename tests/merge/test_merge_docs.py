"""docs/merge-methods.md is true: its example works as written, and it knows every method."""

import inspect
import re
from pathlib import Path

import pytest
from merge_properties import check_everything
from tiny_merge import TinyJob, TinyShelf
from tiny_vocabularies import add_model, words_tokenizer

import lab.merge.registry
from lab.merge.methods import slerp
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.registry import MergeMethods, merge_methods
from lab.merge.run import run

RECIPES = (Path(__file__).parents[2] / "docs" / "merge-recipes.md").read_text("utf-8")
PAGE = (Path(__file__).parents[2] / "docs" / "merge-methods.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_a_file_and_a_test_and_both_work_as_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The file registers itself; its own test and what every method promises hold."""
    fresh = MergeMethods("merge method")
    monkeypatch.setattr(lab.merge.registry, "merge_methods", fresh)
    method, test, _ = BLOCKS
    room = tmp_path / "sign_vote.py"
    room.write_text(method)  # get_type_hints needs no file, tracebacks do
    names: dict = {"__name__": "sign_vote"}
    exec(compile(method, room, "exec"), names)
    exec(compile(test, "test_sign_vote.py", "exec"), names)
    names["test_a_sign_without_quorum_keeps_the_base"]()
    check_everything(fresh["sign_vote"])
    assert (
        fresh["sign_vote"].use == "Average, entry by entry, only the deltas that agree with the winning sign."
    )
    assert list(fresh["sign_vote"].parameters) == ["weight", "quorum"]


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", RECIPES, re.DOTALL))
def test_the_recipes_of_the_documentation_work_as_they_stand(shelf: TinyShelf, job: TinyJob, text: str):
    for name, words in (("one", ["<unk>", "a"]), ("two", ["<unk>", "b", "</s>", "<|im_start|>"])):
        rows = 2 if "tokenizer" not in text else len(words)
        add_model(shelf, name, words_tokenizer(words[:rows]), count=rows, seed=rows)
    spec = read_recipe(text, name="out")
    assert read_recipe(write_recipe(spec), name="out") == spec
    assert run(spec, job).models[0].name == "out"


def test_the_form_in_chunks_is_quoted_as_it_stands():
    quoted = re.sub(r"\s*# noqa.*", "", inspect.getsource(slerp.slerp_streamed))
    assert BLOCKS[2].strip() == quoted.strip()


def test_the_page_knows_every_method():
    listed = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:weights|deltas) \|", PAGE, re.MULTILINE))
    assert listed == set(merge_methods)


def test_the_page_explains_every_argument_of_the_decorator():
    for trait in (
        "source",
        "space",
        "models",
        "use",
        "weighted",
        "base",
        "elementwise",
        "shows_faults",
        "nanoseconds",
    ):
        assert f"| `{trait}` |" in PAGE
