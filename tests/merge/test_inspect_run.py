"""A look into models on disk: the same figures as whole tensors give, adapters folded, samples repeatable."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_merge_adapters import add_adapter
from tiny_merge import TinyJob, TinyShelf, tensors_of

import lab.merge.inspect.sample as sampling
from lab.core.errors import BadInput, NotFound
from lab.merge.inspect.check import check
from lab.merge.inspect.places import Place, place_of
from lab.merge.inspect.report import Figures, Report
from lab.merge.inspect.run import look, run
from lab.merge.inspect.sample import BLOCK, BLOCKS, places_of
from lab.merge.inspect.spec import InspectSpec
from lab.merge.run import run as merge
from lab.merge.spec import merge_of


@dataclass
class Listener(TinyJob):
    """A job that keeps the figures it is told."""

    told: list[dict[str, Any]] = field(default_factory=list)

    def emit(self, kind: str, **payload: Any) -> None:
        assert kind == "figures"
        self.told += payload["tensors"]


@pytest.fixture
def job(shelf: TinyShelf, tmp_path: Path) -> Listener:
    folder = tmp_path / "job"
    folder.mkdir()
    return Listener(shelf.room, folder=folder)


def whole(shelf: TinyShelf, name: str) -> dict[str, torch.Tensor]:
    """Read a model the naive way: all of it at once."""
    files = sorted(shelf.model(name).glob("*.safetensors"))
    return {key: value.double() for file in files for key, value in load_file(file).items()}


@pytest.mark.parametrize("chunk", [1 << 18, 13])
def test_exact_figures_are_those_of_whole_tensors(
    family: TinyShelf, job: Listener, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    report = look(InspectSpec(base="base", models=("a", "b"), exact=True), job)
    base, a, b = (whole(family, name) for name in ("base", "a", "b"))
    assert [one.name for one in report.figures] == list(check(_spec(), family).tensors)
    for one in report.figures:
        first, second = a[one.name] - base[one.name], b[one.name] - base[one.name]
        cosine = torch.cosine_similarity(first.flatten(), second.flatten(), dim=0)
        assert one.tally.cosine(0) == pytest.approx(float(cosine), abs=1e-9)
        assert one.tally.distance(0) == pytest.approx(float(first.norm() / base[one.name].norm()), rel=1e-9)
        both = (first != 0) & (second != 0)
        opposed = (first * second < 0)[both].double().mean()
        assert one.tally.conflicts(0) == pytest.approx(float(opposed))
    flat = torch.cat([(a[name] - base[name]).flatten() for name in base])
    everything = torch.cat([base[name].flatten() for name in base])
    assert report.whole.distance(0) == pytest.approx(float(flat.norm() / everything.norm()), rel=1e-9)


def _spec() -> InspectSpec:
    return InspectSpec(base="base", models=("a", "b"))


def test_an_adapter_is_folded_in_as_in_a_merge(family: TinyShelf, job: Listener) -> None:
    lora = add_adapter(family, "lora")
    report = look(InspectSpec(base="base", models=("lora",), exact=True), job)
    change, base = 3.0 * (lora["up"] @ lora["down"]).double(), whole(family, "base")
    cell = report.cells[Place(1, "self_attn.q_proj")]
    expected = change.norm() / base["model.layers.1.self_attn.q_proj.weight"].norm()
    assert cell.distance(0) == pytest.approx(float(expected), rel=1e-5)
    assert report.cells[Place(0, "self_attn.q_proj")].moved == (0,)


def test_a_sample_of_a_large_tensor_is_bounded_the_same_every_time_and_near_the_truth(
    shelf: TinyShelf, job: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 64)
    base = tensors_of(1, seed=0)
    base["model.embed_tokens.weight"] = torch.randn(20000, 8, generator=torch.Generator().manual_seed(1))
    shelf.add("base", base)
    for seed, name in enumerate(("a", "b"), 1):
        noise = torch.Generator().manual_seed(seed)
        tuned = {key: value + 0.1 * torch.randn(value.shape, generator=noise) for key, value in base.items()}
        shelf.add(name, tuned)
    sampled, again = look(_spec(), job), look(_spec(), job)
    exact = look(_spec().model_copy(update={"exact": True}), job)
    assert sampled.figures == again.figures
    assert (sampled.figures[0].read, exact.figures[0].read) == (32 * 64, 160000)
    assert sampled.figures[0].tally.count == exact.figures[0].tally.count == 160000
    assert sampled.whole.distance(0) == pytest.approx(exact.whole.distance(0), rel=0.05)
    assert sampled.whole.cosine(0) == pytest.approx(exact.whole.cosine(0), abs=0.05)
    assert sampled.is_sampled
    assert not exact.is_sampled


@pytest.mark.parametrize("elements", [BLOCK * BLOCKS + 4000, 10**6, 10**9])
def test_the_blocks_of_a_sample_lie_inside_the_tensor_and_apart(elements: int) -> None:
    places = places_of("x", elements)
    ends = [start + size for start, size in places]
    assert len(places) == BLOCKS
    assert places[0][0] >= 0
    assert ends[-1] <= elements
    assert all(end <= start for end, (start, _) in zip(ends, places[1:], strict=False))
    assert places != places_of("y", elements)


def test_a_job_tells_all_figures_and_its_summary_says_the_same(family: TinyShelf, job: Listener) -> None:
    outcome = run(_spec(), job)
    told = [Figures.from_json(one) for one in job.told]
    report = Report("base", ("a", "b"), told)
    assert len(told) == outcome.summary["tensors"] == 20
    assert list(report.layers) == [0, 1]
    assert any("a has moved" in one["text"] for one in outcome.summary["sentences"])


def test_a_merge_lies_between_its_parents(family: TinyShelf, job: Listener) -> None:
    made = merge(merge_of("linear", [("a", 1.0), ("b", 1.0)], name="out", dtype="float32"), job).models[0]
    made.folder.rename(family.room / "out")
    report = look(InspectSpec(base="out", models=("a", "b"), purpose="after", exact=True), job)
    out, a = whole(family, "out"), whole(family, "a")
    gap = torch.cat([(out[name] - a[name]).flatten() for name in a])
    expected = float(gap.norm() / torch.cat([a[name].flatten() for name in a]).norm())
    assert report.whole.distance_to(0) == pytest.approx(expected, rel=1e-6)


def test_models_without_a_tensor_in_common_are_refused_by_name(family: TinyShelf) -> None:
    family.add("other", {"model.layers.0.strange.weight": torch.ones(2, 2)})
    with pytest.raises(BadInput, match="no tensor of the same name"):
        check(InspectSpec(base="base", models=("other",)), family)


def test_a_tensor_of_another_shape_is_left_out_and_named(family: TinyShelf, job: Listener) -> None:
    wide = tensors_of(2, seed=4)
    wide["model.norm.weight"] = torch.ones(9)
    family.add("wide", wide)
    report = look(InspectSpec(base="base", models=("wide",)), job)
    assert list(report.left_out) == ["model.norm.weight"]
    assert len(report.figures) == 19


def test_a_model_that_is_not_there_is_named_at_its_field(family: TinyShelf) -> None:
    with pytest.raises(NotFound, match="gone"):
        check(InspectSpec(base="base", models=("a", "gone")), family)
    (family.room / "empty").mkdir()
    with pytest.raises(BadInput) as refused:
        check(InspectSpec(base="base", models=("a", "empty")), family)
    assert refused.value.field == "models.1"


def test_a_spec_names_each_model_once() -> None:
    with pytest.raises(ValueError, match="repeated: a"):
        InspectSpec(base="a", models=("a", "b"))


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("model.layers.7.self_attn.q_proj.weight", Place(7, "self_attn.q_proj")),
        ("model.layers.0.mlp.experts.12.w1.weight", Place(0, "mlp.experts.*.w1")),
        ("model.embed_tokens.weight", Place(None, "embed_tokens")),
        ("transformer.h.3.attn.c_attn.bias", Place(3, "attn.c_attn.bias")),
        ("lm_head.weight", Place(None, "lm_head")),
    ],
)
def test_a_tensors_place_is_read_from_its_name(tensor: str, place: Place) -> None:
    assert place_of(tensor) == place


def test_a_look_ends_when_its_job_is_cancelled(family: TinyShelf, job: Listener) -> None:
    class Enough(Exception):
        pass

    def cancel() -> None:
        raise Enough

    job.on_breath = cancel
    with pytest.raises(Enough):
        look(_spec(), job)
