"""lab/score/check: what is refused before a job is queued."""

from dataclasses import replace

import pytest

from lab.core.errors import BadInput
from lab.score.check import check
from lab.score.spec import ScoreSpec


def test_the_check_counts_what_will_be_read(shelf):
    estimate = check(ScoreSpec(models=("base", "adapter"), limit=30), shelf)
    assert (estimate.questions, estimate.texts) == (30, 5)
    assert estimate.memory_bytes > 1 << 30


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"models": ("base", "gone")}, "models", "gone"),
        ({"multiple_choice": "gone"}, "multiple_choice", "gone"),
        ({"text": "gone"}, "text", "gone"),
    ],
)
def test_what_is_not_there_is_named_with_its_field(shelf, fields, field, words):
    with pytest.raises(BadInput, match=words) as caught:
        check(ScoreSpec(**{"models": ("base",), **fields}), shelf)
    assert caught.value.field == field


def test_a_folder_that_is_no_model_is_refused(shelf, tmp_path):
    shelf = replace(shelf, places={"empty": tmp_path})
    with pytest.raises(BadInput) as caught:
        check(ScoreSpec(models=("empty",)), shelf)
    assert caught.value.field == "models"


def test_a_truncated_model_is_refused(shelf, tmp_path, bench):
    for file in bench.base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"model\.safetensors") as caught:
        check(ScoreSpec(models=("cut",)), replace(shelf, places={"cut": tmp_path}))
    assert caught.value.field == "models"


def test_a_model_too_large_for_the_memory_is_refused_with_a_way_out(shelf):
    with pytest.raises(BadInput, match=r"base needs about 1\.0 GiB .* Score in bfloat16") as caught:
        check(ScoreSpec(models=("base",)), replace(shelf, memory=1 << 30))
    assert caught.value.field == "models"
