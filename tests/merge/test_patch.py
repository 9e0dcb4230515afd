"""Portable patches: the sum by hand, an adapter on another base, what the check says of the bases."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_merge_adapters import MODULE, add_adapter, weight_of
from tiny_merge import TinyJob, TinyShelf, tensors_of
from torch import Tensor, tensor

from lab.core.errors import BadInput
from lab.merge.check import check
from lab.merge.methods.patch import patch
from lab.merge.patching import Apart, measure, patch_of
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.run import run


def loaded(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.fixture
def bases(family: TinyShelf) -> TinyShelf:
    """The family's base trained a little further: base2."""
    old = loaded(family.model("base"))
    drift = tensors_of(2, seed=8, scale=0.05)
    family.add("base2", {name: value.float() + drift[name] for name, value in old.items()}, torch.float32)
    return family


def test_a_patch_is_what_was_learned_added_to_the_new_base():
    models = tensor([[10.0, 20.0], [3.0, 1.0], [1.0, 2.0]])
    assert patch(models, torch.ones(3)).tolist() == [12.0, 19.0]
    assert patch(models, torch.ones(3), scale=-0.5).tolist() == [9.0, 20.5]


def test_a_full_fine_tune_is_carried_over_weight_by_weight(bases: TinyShelf, job: TinyJob):
    spec = patch_of("base2", "a", "base", name="out", scale=0.5, dtype="float32")
    outcome = run(spec, job)
    new, tuned, old = (loaded(bases.model(name)) for name in ("base2", "a", "base"))
    for name, value in loaded(outcome.models[0].folder).items():
        torch.testing.assert_close(value, new[name] + 0.5 * (tuned[name].float() - old[name].float()))
    assert outcome.models[0].parents == ("base2", "a", "base")
    assert outcome.models[0].words == "what a learned on base, carried over to base2, scale 0.5"
    assert any("two bases differ by" in note for note in job.notes)


def test_an_adapter_s_patch_is_its_product_alone(bases: TinyShelf, job: TinyJob):
    lora = add_adapter(bases, "lora")
    spec = patch_of("base2", "lora", "base", name="out", dtype="float32")
    folder = run(spec, job).models[0].folder
    expected = weight_of(bases.model("base2")) + 3.0 * lora["up"] @ lora["down"]
    torch.testing.assert_close(weight_of(folder, f"{MODULE}.weight"), expected)
    for name, value in loaded(folder).items():
        if name != f"{MODULE}.weight":
            assert torch.equal(value, loaded(bases.model("base2"))[name])


def test_the_check_says_how_far_the_bases_are_apart(bases: TinyShelf):
    plan = check(patch_of("base2", "a", "base", name="out"), bases)
    apart = measure(plan)
    # Normal noise of 0.05 and 0.1 on normal weights of 1.
    assert (apart.bases, apart.change) == (pytest.approx(0.05, rel=0.1), pytest.approx(0.1, rel=0.1))
    (remark,) = plan.remarks
    assert "bases differ by" in remark
    assert "unrelated" not in remark


def test_unrelated_bases_and_a_fine_tune_that_learned_nothing_are_told(bases: TinyShelf):
    bases.add("stranger", tensors_of(2, seed=99))
    (remark,) = check(patch_of("stranger", "a", "base", name="out"), bases).remarks
    assert "bases differ by 139 % of their size" in remark
    assert "look unrelated" in remark
    assert "learned nothing" in Apart(0.1, 0.0).words


def test_bases_of_other_shapes_or_vocabularies_are_refused_before_anything_is_queued(bases: TinyShelf):
    wide = tensors_of(2, seed=5)
    wide["model.embed_tokens.weight"] = torch.randn(30, 8)
    bases.add("more-words", wide, vocab_size=30)
    with pytest.raises(BadInput, match="vocabulary") as refused:
        check(patch_of("more-words", "a", "base", name="out"), bases)
    assert refused.value.field in ("base_model", "models.0.model")
    bases.add("deep", tensors_of(4, seed=5))
    with pytest.raises(BadInput, match="different numbers of layers: deep 4, a 2"):
        check(patch_of("deep", "a", "base", name="out"), bases)


def test_the_three_roles_survive_the_recipe(bases: TinyShelf):
    spec = patch_of("base2", "a", "base", name="out", scale=0.5)
    assert read_recipe(write_recipe(spec), name="out") == spec
    with pytest.raises(ValueError, match="patch takes 3"):
        read_recipe("merge_method: patch\nbase_model: x\nmodels: [{model: y}]\n", name="out")
