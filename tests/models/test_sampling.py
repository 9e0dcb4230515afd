"""The next token is drawn from the distribution that transformers would draw from, repeatably."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.models.sampling import Sampling, next_token, penalised, probabilities

NOBODY = torch.zeros(0, dtype=torch.int64)


def draw(scores: torch.Tensor, sampling: Sampling, count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [next_token(scores, NOBODY, sampling, generator) for _ in range(count)]


class TestDistribution:
    def test_temperature_divides_the_scores(self) -> None:
        scores = torch.tensor([0.0, math.log(3)])
        sampling = Sampling(temperature=0.5, top_p=1)
        assert probabilities(scores, sampling).tolist() == pytest.approx([0.1, 0.9])  # 1 : 3**2

    def test_top_k_keeps_the_k_likeliest(self) -> None:
        scores = torch.tensor([1.0, 3.0, 2.0]).log()
        chances = probabilities(scores, Sampling(temperature=1, top_p=1, top_k=2))
        assert chances.tolist() == pytest.approx([0, 3 / 5, 2 / 5])

    def test_top_p_keeps_the_fewest_that_reach_it(self) -> None:
        scores = torch.tensor([0.1, 0.6, 0.3]).log()
        assert probabilities(scores, Sampling(temperature=1, top_p=0.5)).tolist() == [0, 1, 0]
        kept = probabilities(scores, Sampling(temperature=1, top_p=0.7)).tolist()
        assert kept == pytest.approx([0, 2 / 3, 1 / 3])

    @given(
        st.lists(st.integers(-64, 64), min_size=2, max_size=30, unique=True),
        st.floats(0.1, 2),
        st.integers(0, 10),
        st.floats(0.05, 1),
    )
    def test_it_is_that_of_transformers(
        self, eighths: list[int], temperature: float, top_k: int, top_p: float
    ) -> None:
        """Scores lie an eighth apart, because tokens that are as likely as each other have no order."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        scores = torch.tensor(eighths) / 8
        oracle = TemperatureLogitsWarper(temperature)(None, scores[None])
        if top_k:
            oracle = TopKLogitsWarper(top_k)(None, oracle)
        if top_p < 1:
            oracle = TopPLogitsWarper(top_p)(None, oracle)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        ours, theirs = probabilities(scores, sampling), oracle.softmax(-1)[0]
        edge = (ours == 0) != (theirs == 0)  # a token within rounding of the top_p border
        assert int(edge.sum()) <= 1
        if not edge.any():
            assert torch.allclose(ours, theirs, atol=1e-5)

    def test_the_penalty_is_that_of_transformers(self) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        scores, said = torch.tensor([2.0, -2.0, 1.0]), torch.tensor([0, 1, 0])
        assert penalised(scores, said, 2.0).tolist() == [1.0, -4.0, 1.0]
        oracle = RepetitionPenaltyLogitsProcessor(1.3)(said[None], scores[None])[0]
        assert torch.equal(oracle, penalised(scores, said, 1.3))


class TestDrawing:
    def test_temperature_zero_takes_the_likeliest_and_draws_no_number(self) -> None:
        generator = torch.Generator().manual_seed(3)
        before = generator.get_state()
        assert next_token(torch.tensor([1.0, 5.0, 2.0]), NOBODY, Sampling(temperature=0), generator) == 1
        assert torch.equal(before, generator.get_state())

    def test_the_same_seed_draws_the_same_tokens(self) -> None:
        scores = torch.randn(500, generator=torch.Generator().manual_seed(1))
        sampling = Sampling(temperature=1, top_p=1)
        assert draw(scores, sampling, 20, seed=5) == draw(scores, sampling, 20, seed=5)
        assert draw(scores, sampling, 20, seed=5) != draw(scores, sampling, 20, seed=6)

    def test_models_with_other_vocabularies_draw_the_same_numbers(self) -> None:
        """A few tokens that are never drawn, more or less, change nothing."""
        scores = torch.tensor([0.5, 0.2, 0.3]).log()
        longer = torch.cat([scores, torch.full((100,), -1e9)])
        sampling = Sampling(temperature=1, top_p=1)
        assert draw(scores, sampling, 50) == draw(longer, sampling, 50)

    def test_tokens_come_as_often_as_they_should(self) -> None:
        chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
        said = torch.tensor(draw(chances.log(), Sampling(temperature=1, top_p=1), 4000)).bincount(minlength=4)
        assert said[1] == 0
        assert (said / 4000).tolist() == pytest.approx(chances.tolist(), abs=0.03)  # over 3.7 deviations

    def test_the_global_seed_is_left_alone(self) -> None:
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        draw(torch.randn(10, generator=torch.Generator()), Sampling(temperature=1), 5)
        assert torch.equal(expected, torch.rand(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": float("nan")},
        {"temperature": -0.1},
        {"top_p": 0},
        {"top_p": float("inf")},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 2**31},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"repetition_penalty": 0.5},
        {"temprature": 1},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Sampling(**wrong)
