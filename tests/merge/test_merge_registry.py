"""The registry of merge methods: knobs from a signature, and nothing else to write."""

from typing import Annotated

import pytest
import torch
from merge_properties import merge
from pydantic import Field, ValidationError
from torch import Tensor

from lab.core.errors import UnknownName
from lab.merge.draws import Draws
from lab.merge.registry import MergeMethods, PerModel, for_each, knobs_of, merge_methods


def plain(deltas: Tensor, weights: Tensor, *, share: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Tensor:
    """When nothing else will do."""
    return (deltas * share).sum(0)


def test_registering_returns_the_function_unchanged():
    methods = MergeMethods("merge method")
    assert methods.register("plain", source="ours")(plain) is plain
    method = methods["plain"]
    assert (method.use, method.space, method.base) == ("When nothing else will do.", "delta", "delta")
    assert list(method.parameters) == ["weight", "share"]


def test_a_name_is_taken_once_and_an_unknown_one_suggests_the_nearest():
    methods = MergeMethods("merge method")
    methods.register("plain", source="ours")(plain)
    with pytest.raises(ValueError, match="already a merge method named 'plain'"):
        methods.register("plain", source="ours")(plain)
    with pytest.raises(UnknownName, match="Did you mean 'plain'"):
        methods["plian"]


def test_the_six_methods_are_found_by_their_folder():
    assert {"linear", "slerp", "task_arithmetic", "ties", "sce", "passthrough"} <= set(merge_methods)


def test_knobs_keep_bounds_help_and_defaults():
    ties = merge_methods["ties"]
    density = ties.knobs.model_fields["density"]
    assert (density.default, density.annotation) == (1.0, float)
    assert density.description is not None
    assert ties.is_per_model("density")
    assert ties.is_per_model("weight")
    assert not ties.is_per_model("normalize")
    with pytest.raises(ValidationError):
        ties.knobs(density=1.2)
    assert ties.knobs.model_validate({"lambda": 0.5}).model_dump(by_alias=True)["lambda"] == 0.5


def test_a_knob_without_type_or_default_is_a_mistake_of_whoever_wrote_it():
    def no_default(deltas: Tensor, weights: Tensor, *, share: float) -> Tensor:
        return deltas[0] * share

    def no_type(deltas: Tensor, weights: Tensor, *, share=1.0) -> Tensor:
        return deltas[0] * share

    for function in (no_default, no_type):
        with pytest.raises(TypeError, match="needs a type and a default"):
            knobs_of(function)


def test_a_per_model_knob_is_one_number_for_all_or_one_for_each():
    def scaled(models: Tensor, weights: Tensor, *, scale: Annotated[PerModel, Field(ge=0)] = 1.0) -> Tensor:
        return models[0]

    knobs, per_model = knobs_of(scaled)
    assert (per_model, knobs().model_dump()) == ({"scale"}, {"scale": 1.0})
    assert for_each(0.5, 2) == [0.5, 0.5]
    assert for_each((0.5, 1), 2) == [0.5, 1.0]


def test_a_method_of_whole_tensors_is_streamed_chunk_by_chunk():
    from merge_properties import check_everything

    methods = MergeMethods("merge method")

    def largest(deltas: Tensor, weights: Tensor) -> Tensor:
        """Take the largest change of each row."""
        return deltas.amax(0) - torch.zeros(deltas.shape[1:]).amax()

    methods.register("largest", source="ours", weighted=False)(largest)
    check_everything(methods["largest"])


def test_random_numbers_are_handed_to_a_method_that_takes_them_and_are_no_knob():
    methods = MergeMethods("merge method")

    def noisy(deltas: Tensor, weights: Tensor, *, draws: Draws, share: float = 0.5) -> Tensor:
        """Keep a share at random."""
        return deltas[0] * draws.keep(0, share, 0, deltas[0].numel()).view(deltas.shape[1:])

    methods.register("noisy", source="ours")(noisy)
    method = methods["noisy"]
    assert method.is_random
    assert list(method.parameters) == ["weight", "share"]
    assert not merge_methods["ties"].is_random
    first, again, other = (merge(method, torch.ones(1, 64), torch.ones(1), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
