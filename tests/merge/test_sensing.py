"""Fisher and RegMean: worked numbers, estimators against torch.func and numpy, merges of tiny models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from merge_properties import knobs_of
from safetensors.torch import load_file
from tiny_merge import TinyJob
from tiny_models import Bench, write_bench
from torch import Tensor, nn, tensor

import lab.merge.calibrating
from lab.core.errors import NotFound, Released
from lab.data.encoding import IGNORED
from lab.merge.check import check
from lab.merge.methods.fisher import fisher, fisher_streamed
from lab.merge.methods.regmean import regmean
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.registry import merge_methods
from lab.merge.run import run
from lab.merge.sensing import fisher_of, grams_of, shared_inputs
from lab.merge.spec import MergeSpec

ROWS = [([1, 7, 30, 31, 9, 2], [IGNORED, IGNORED, 30, 31, 9, 2]), ([1, 80, 81, 40], [1, 80, 81, 40])]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return write_bench(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(bench: Bench) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bench.pirate, dtype=torch.float32).eval()


@pytest.fixture
def job(bench: Bench, tmp_path: Path) -> TinyJob:
    (tmp_path / "job").mkdir()
    return TinyJob(bench.root, folder=tmp_path / "job")


def recipe(method: str, extra: str = "") -> MergeSpec:
    text = f"""
        merge_method: {method}
        models:
          - {{model: pirate, parameters: {{weight: 1.0, data: pirate}}}}
          - {{model: sums, parameters: {{weight: 1.0, data: sums}}}}
        parameters: {{samples: 3{extra}}}
        """
    return read_recipe(text, name="out")


def loaded(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


# The methods, by hand -----------------------------------------------------------------------------


def test_fisher_follows_the_model_that_a_weight_matters_most_to():
    models = tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    known = {"fisher.0": tensor([3.0, 0.0, 0.0]), "fisher.1": tensor([1.0, 2.0, 0.0])}
    # (3 * 1 + 1 * 3) / 4, then the second model alone, then the average where neither is sensitive.
    merged = fisher(models, torch.ones(2), floor=1e-6, known=known)
    torch.testing.assert_close(merged, tensor([1.5, 3.0, 2.0]), rtol=1e-5, atol=1e-5)
    # The scale of the sensitivities is of no account, however small squares of gradients are.
    tiny = {name: value * 1e-30 for name, value in known.items()}
    torch.testing.assert_close(fisher(models, torch.ones(2), floor=1e-6, known=tiny), merged)


def test_fisher_s_floor_is_a_share_of_the_tensor_s_mean_sensitivity():
    models = tensor([[0.0, 0.0], [4.0, 4.0]])
    known = {"fisher.0": tensor([2.0, 0.0]), "fisher.1": tensor([0.0, 2.0])}
    # The mean is 1, so with a floor of 1 the shares are 3 to 1.
    torch.testing.assert_close(fisher(models, torch.ones(2), floor=1.0, known=known), tensor([1.0, 3.0]))


def test_fisher_in_chunks_reads_the_sensitivities_beside_the_values():
    from merge_properties import Chunked, some_rows

    rows = some_rows(3)
    known = {f"fisher.{place}": some_rows(1, seed=9 + place)[0].square() for place in range(3)}
    whole = fisher(rows, torch.ones(3), known=known)
    for length in (1, 4, 35):
        pieces = [
            piece.clone()
            for piece in fisher_streamed(Chunked(rows, length), torch.ones(3), floor=1e-3, known=known)
        ]
        torch.testing.assert_close(torch.cat(pieces).view(whole.shape), whole)


def test_regmean_is_the_least_squares_solution_of_lapack():
    """min_W sum_i |X_i W - X_i W_i|^2 by numpy's lstsq on the stacked problem."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(40, 6, generator=generator) * scale for scale in (1.0, 0.3, 2.0)]
    models = torch.randn(3, 4, 6, generator=generator)
    known = {f"gram.{place}": one.T @ one for place, one in enumerate(inputs)}
    answers = [one @ weight.T for one, weight in zip(inputs, models, strict=True)]
    expected = np.linalg.lstsq(torch.cat(inputs).double().numpy(), torch.cat(answers).double().numpy())[0].T
    merged = regmean(models, torch.ones(3), alpha=1.0, known=known)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_regmean_with_alpha_zero_weighs_each_input_by_its_power():
    models = tensor([[[1.0, 1.0]], [[3.0, 3.0]]])  # one output, two inputs
    known = {"gram.0": tensor([[3.0, 9.0], [9.0, 0.0]]), "gram.1": tensor([[1.0, 9.0], [9.0, 2.0]])}
    merged = regmean(models, torch.ones(2), alpha=0.0, known=known)
    torch.testing.assert_close(merged, tensor([[1.5, 3.0]]), rtol=1e-4, atol=1e-4)


def test_regmean_averages_what_no_input_tells_and_what_is_no_linear_layer():
    models = tensor([[[1.0, 5.0]], [[3.0, 7.0]]])
    silent = {"gram.0": tensor([[2.0, 0.0], [0.0, 0.0]]), "gram.1": torch.zeros(2, 2)}
    torch.testing.assert_close(
        regmean(models, torch.ones(2), known=silent), tensor([[1.0, 6.0]]), rtol=1e-4, atol=1e-4
    )
    nothing = {"gram.0": torch.zeros(2, 2), "gram.1": torch.zeros(2, 2)}
    for known in (nothing, None):
        torch.testing.assert_close(regmean(models, torch.ones(2), known=known), tensor([[2.0, 6.0]]))


def test_what_a_model_reads_is_a_parameter_and_no_knob():
    for name in ("fisher", "regmean"):
        method = merge_methods[name]
        assert {"data", "samples", "weight"} <= set(method.parameters)
        assert not {"data", "samples", "known"} & set(knobs_of(method))
        assert method.is_per_model("data")
    assert "data" not in merge_methods["linear"].parameters


# The estimators, against torch.func and a plain copy of the inputs ---------------------------------


def test_the_fisher_estimate_is_the_mean_square_of_torch_func_s_gradients(model: nn.Module):
    names = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    ]
    parameters = {name: one.detach() for name, one in model.named_parameters()}

    def log_likelihood(wanted: dict[str, Tensor], row: tuple) -> Tensor:
        logits = torch.func.functional_call(
            model, parameters | wanted, kwargs={"input_ids": tensor([row[0]])}
        ).logits
        chances = logits[0, :-1].log_softmax(-1)
        return sum(chances[at, label] for at, label in enumerate(row[1][1:]) if label != IGNORED)

    wanted = {name: parameters[name] for name in names}
    gradients = [torch.func.grad(log_likelihood)(wanted, row) for row in ROWS]
    found = fisher_of(model, ROWS, names, lambda: None)
    assert set(found) == set(names)
    for name in names:
        expected = sum(one[name] ** 2 for one in gradients) / len(ROWS)
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=float(expected.max()) * 1e-5)


def test_gram_matrices_are_those_of_the_inputs_and_shared_where_the_inputs_are(model: nn.Module):
    shared = shared_inputs(model, ROWS[0])
    stem = "model.layers.1"
    assert {shared[f"{stem}.self_attn.{name}_proj"] for name in "qkv"} == {f"{stem}.self_attn.q_proj"}
    assert {shared[f"{stem}.mlp.{name}_proj"] for name in ("gate", "up")} == {f"{stem}.mlp.gate_proj"}
    assert shared[f"{stem}.mlp.down_proj"] == f"{stem}.mlp.down_proj"
    layer = f"{stem}.mlp.down_proj"
    seen: list[Tensor] = []
    module = dict(model.named_modules())[layer]
    handle = module.register_forward_hook(lambda _, given, out: seen.append(given[0][0].detach()))
    found = grams_of(model, ROWS, [layer], lambda: None)
    handle.remove()
    inputs = torch.cat(seen).double()
    assert len(inputs) == 10
    torch.testing.assert_close(found[layer].double(), inputs.T @ inputs / 10, rtol=1e-4, atol=1e-7)


# Whole merges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_models_read_their_texts_one_after_the_other_and_are_merged_by_what_was_found(
    job: TinyJob, bench: Bench, method: str
):
    spec = recipe(method)
    assert spec.datasets_used() == ("pirate", "sums")
    outcome = run(spec, job)
    merged, pirate, sums = (loaded(folder) for folder in (outcome.models[0].folder, bench.pirate, bench.sums))
    apart = 0
    for name, value in merged.items():
        average = (pirate[name] + sums[name]) / 2
        assert value.isfinite().all()
        apart += not torch.allclose(value, average, atol=1e-5)
        if method == "regmean" and ("norm" in name or "embed" in name):
            torch.testing.assert_close(value, average)
    assert apart >= 14  # every linear layer
    assert any("pirate reads pirate" in note for note in job.notes)


def test_regmean_answers_a_model_s_inputs_more_like_that_model_than_the_average_does(
    job: TinyJob, bench: Bench
):
    outcome = run(recipe("regmean", ", alpha: 1.0"), job)
    merged, pirate, sums = (loaded(folder) for folder in (outcome.models[0].folder, bench.pirate, bench.sums))
    name = "model.layers.0.self_attn.q_proj.weight"
    found = [load_file(job.folder / "merge" / "read" / f"{place}-0.safetensors")[name] for place in range(2)]

    def error(weight: Tensor) -> float:
        """sum_i |X_i (W - W_i)|^2, from the Gram matrices."""
        apart = [weight - own[name] for own in (pirate, sums)]
        return sum(((one @ gram) * one).sum().item() for one, gram in zip(apart, found, strict=True))

    assert error(merged[name]) < 0.9 * error((pirate[name] + sums[name]) / 2)


def test_a_model_that_has_read_is_not_loaded_again_after_a_crash(
    job: TinyJob, monkeypatch: pytest.MonkeyPatch
):
    loads: list[str] = []
    plain = lab.merge.calibrating.load
    monkeypatch.setattr(
        lab.merge.calibrating,
        "load",
        lambda source, device: loads.append(source.name) or plain(source, device),
    )

    def stop_at_the_second() -> None:
        if loads == ["pirate", "sums"]:
            raise Released

    job.on_breath = stop_at_the_second
    with pytest.raises(Released):
        run(recipe("regmean"), job)
    job.on_breath = lambda: None
    run(recipe("regmean"), job)
    assert loads == ["pirate", "sums", "sums"]
    run(recipe("regmean", ", alpha: 0.5"), job)
    assert loads[3:] == ["pirate", "sums"]


def test_statistics_of_a_large_model_are_taken_in_groups(
    job: TinyJob, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = loaded(run(recipe("fisher"), job).models[0].folder)
    monkeypatch.setattr(lab.merge.calibrating, "GROUP_BYTES", 100_000)
    (tmp_path / "other").mkdir()
    other = TinyJob(bench.root, folder=tmp_path / "other")
    grouped = loaded(run(recipe("fisher"), other).models[0].folder)
    assert len(list((other.folder / "merge" / "read").glob("0-*.safetensors"))) > 2
    for name, value in whole.items():
        torch.testing.assert_close(grouped[name], value, rtol=1e-4, atol=1e-6)


def test_the_check_says_what_reading_takes_and_refuses_what_can_t_be_read(job: TinyJob):
    plan = check(recipe("regmean"), job)
    assert plan.reading_seconds > 0
    assert plan.seconds > plan.reading_seconds
    assert plan.work_bytes > 0
    assert plan.need.memory_bytes > 4 * plan.parameters
    assert plan.remarks[0].startswith("First pirate reads pirate, sums reads sums: about ")
    with pytest.raises(NotFound, match="no dataset 'nowhere'") as refused:
        check(
            read_recipe(write_recipe(recipe("regmean")).replace("data: sums", "data: nowhere"), name="out"),
            job,
        )
    assert refused.value.field == "models.1.parameters.data"


def test_a_model_without_a_text_is_named():
    one = "{model: a, parameters: {weight: 1, data: x}}"
    text = f"merge_method: regmean\nmodels: [{one}, {{model: b, parameters: {{weight: 1}}}}]"
    with pytest.raises(ValueError, match="b has no text to read"):
        read_recipe(text, name="out")
    shared = "merge_method: fisher\nmodels: [{model: a, parameters: {weight: 1}}]\nparameters: {data: x}"
    assert read_recipe(shared, name="out").datasets_used() == ("x",)
    sliced = "merge_method: regmean\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]"
    with pytest.raises(ValueError, match="has slices"):
        read_recipe(sliced, name="out")
