"""What is said of a report: every sentence at the figures that call for it, with its number."""

from collections.abc import Mapping

import pytest
import torch

from lab.merge.inspect.kinship import measure
from lab.merge.inspect.report import Figures, Report
from lab.merge.inspect.table import table
from lab.merge.inspect.words import layers_words, percent, runs, sentences, share_of

Deltas = Mapping[str, tuple[torch.Tensor, ...]]

SIZE = 4000


def noise(seed: int, scale: float = 0.01) -> torch.Tensor:
    """Normal noise whose root mean square is the scale, exactly."""
    values = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * values / values.square().mean().sqrt()


BASE = noise(0, 1.0).float()


def report_of(deltas: Deltas, names: tuple[str, ...] = ("pirate", "sums"), **more) -> Report:
    """Make a report from each tensor's deltas; the base is the same everywhere."""
    figures = [
        Figures(name, SIZE, measure(BASE, torch.stack([(BASE + d) for d in rows]).float()), SIZE)
        for name, rows in deltas.items()
    ]
    return Report("base", names, figures, **more)


def said(report: Report) -> str:
    return "\n".join(one.text for one in sentences(report))


def layer(number: int, kind: str = "self_attn.q_proj") -> str:
    return f"model.layers.{number}.{kind}.weight"


def test_a_model_that_barely_moved_is_told_with_its_share() -> None:
    report = report_of({layer(0): (noise(1, 0.0002),)}, ("pirate",))
    assert "pirate has barely moved from base (0.02 %)." in said(report)


def test_a_model_that_did_not_move_is_told() -> None:
    report = report_of({layer(0): (torch.zeros(SIZE), noise(2))})
    assert "pirate equals base in every weight: it adds nothing to a merge." in said(report)


def test_the_kinds_that_a_model_changed_are_named() -> None:
    kinds = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    moved = {layer(0, kind): (noise(1) * (kind == kinds[0]),) for kind in kinds}
    assert "pirate has moved 0.5 % from base, only in q_proj." in said(report_of(moved, ("pirate",)))


def test_another_model_altogether_is_no_fine_tune() -> None:
    assert "pirate is far from base (100 %)" in said(report_of({layer(0): (noise(1, 1.0),)}, ("pirate",)))


def test_layers_where_two_models_moved_against_each_other_are_named() -> None:
    rows = {layer(n): (noise(n), noise(n + 50) - (noise(n) if 18 <= n <= 24 else 0)) for n in range(30)}
    text = said(report_of(rows))
    assert "pirate and sums moved the same weights in opposite directions in layers 18 to 24 (" in text
    assert "prefer sign election (ties)" in text


def test_unrelated_models_are_not_said_to_be_at_odds() -> None:
    text = said(report_of({layer(n): (noise(n), noise(n + 50)) for n in range(8)}))
    assert "moved in unrelated directions" in text
    assert "50 % is chance" in text
    assert "opposite directions" not in text


def test_models_that_learned_the_same_should_be_averaged() -> None:
    text = said(report_of({layer(0): (noise(1), noise(1) + noise(2, 0.003))}))
    assert "moved the same way (cosine 0.96" in text
    assert "adding both overshoots" in text


def test_slerp_is_linear_where_every_cosine_is_near_one_and_curved_where_not() -> None:
    near = said(report_of({layer(0): (noise(1), noise(2))}))
    assert "pirate and sums is above 0.9995 in every tensor (lowest 0.9999" in near
    far = said(report_of({layer(0): (noise(1, 0.1), noise(2, 0.1)), layer(1): (noise(3), noise(4))}))
    assert "slerp curves in 1 of 2 tensors" in far


def test_of_many_models_a_few_pairs_are_told_and_the_rest_are_counted() -> None:
    names = tuple("abcde")
    text = said(report_of({layer(0): tuple(noise(seed) for seed in range(1, 6))}, names))
    assert text.count("moved in unrelated directions") == 4
    assert "6 further pairs are as unrelated, or nearly." in text
    assert text.count("slerp is linear here") == 1
    assert "every two of these models is above 0.9995" in text
    far = said(report_of({layer(0): tuple(noise(seed, 0.2) for seed in range(1, 6))}, names))
    assert far.count("slerp curves in 1 of 1 tensors") == 4
    assert "Slerp curves between 6 further pairs." in far


def test_of_one_model_slerp_is_told_against_the_base() -> None:
    assert "the weights of base and pirate is above" in said(report_of({layer(0): (noise(1),)}, ("pirate",)))


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (0.001, "DARE can drop 90 to 99 % of the changes of pirate: 100 % of them are within 0.005."),
        (0.0019, "DARE can drop 90 to 99 % of the changes of pirate: 99 %"),
        (0.008, "DARE at 0.9 or more is a risk on pirate: only 4"),
        (0.03, "DARE at a drop rate of 0.9 or more is likely to fail on pirate: 3"),
    ],
)
def test_dare_is_warned_of_by_the_size_of_the_changes(scale: float, words: str) -> None:
    assert words in said(report_of({layer(0): (noise(1, scale),)}, ("pirate",)))


def test_a_damaged_model_is_told_first() -> None:
    rows = {layer(0): (noise(1), torch.full((SIZE,), float("nan"), dtype=torch.float64))}
    first = sentences(report_of(rows))[0]
    assert first.look == "bad"
    assert first.text == f"sums holds NaN or infinite values in {layer(0)}: it is damaged."


def test_a_merge_is_told_by_its_distance_to_each_parent_and_its_norms() -> None:
    between = report_of({layer(0): (noise(1, 0.001), noise(2))}, purpose="after")
    text = said(between)
    assert "base is 0.1 % from pirate, 1 % from sums, nearest to pirate." in text
    assert "as long as in one of its parents" in text
    assert "The values of base are finite: all of them." in text


def test_a_norm_that_no_parent_has_is_named() -> None:
    shrunk = report_of({layer(0): (-BASE.double() / 2, -BASE.double() / 4), layer(1): (noise(1), noise(2))})
    text = said(Report("base", shrunk.models, shrunk.figures, "after"))
    assert (
        f"1 tensor of base has a norm that no parent has, measured by the nearest parent: {layer(0)}" in text
    )
    assert "(1.33 times)" in text


def test_a_merge_that_equals_a_parent_changed_nothing() -> None:
    text = said(report_of({layer(0): (torch.zeros(SIZE), noise(2))}, purpose="after"))
    assert "base equals pirate in every weight: the merge changed nothing." in text


def test_what_was_left_out_is_said() -> None:
    text = said(report_of({layer(0): (noise(1),)}, ("pirate",), left_out=("lm_head.weight",)))
    assert "1 tensor is not in all models alike: lm_head.weight." in text


def test_runs_of_layers_read_as_people_say_them() -> None:
    assert runs([3, 1, 2, 7]) == [(1, 3), (7, 7)]
    assert layers_words([(4, 4)]) == "layer 4"
    assert layers_words([(18, 24)]) == "layers 18 to 24"
    assert layers_words([(1, 3), (7, 7)]) == "layers 1 to 3 and 7"
    assert layers_words([(n, n) for n in range(0, 20, 2)]) == "10 layers (0, 2, 4, ...)"


def test_small_shares_never_read_as_nothing_or_all() -> None:
    assert [percent(x) for x in (0, 0.00024, 0.012, 0.52)] == ["0 %", "0.024 %", "1.2 %", "52 %"]
    assert [share_of(x) for x in (0, 0.0001, 0.123, 0.9999, 1)] == [
        "0 %", "under 0.1 %", "12.3 %", "over 99.9 %", "100 %",
    ]  # fmt: skip


def test_the_table_has_a_line_for_each_layer_and_names_the_models() -> None:
    rows = {layer(n): (noise(n), noise(n + 9)) for n in range(2)} | {
        "model.norm.weight": (noise(5), noise(6))
    }
    lines = table(report_of(rows)).splitlines()
    assert lines[0] == "Against base. A is pirate, B is sums."
    assert [line[:7].strip() for line in lines[2:]] == ["layer 0", "layer 1", "norm", "all"]
    assert "cos AB" in lines[1]
    assert all(len(line) == len(lines[1]) for line in lines[2:])
