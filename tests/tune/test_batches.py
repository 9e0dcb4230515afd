"""Batches: padding, labels, and the logits that are left out."""

import torch

from lab.data.encoding import IGNORED, Encoded
from lab.tune.batches import Padding, Rows, features_of

PAD = 2
SHORT = Encoded([5, 6, 2], [IGNORED, 6, 2], 3)
LONG = Encoded([7, 8, 9, 10, 2], [IGNORED, IGNORED, IGNORED, 10, 2], 5)


def test_rows_are_padded_on_the_right_and_the_padding_is_never_trained() -> None:
    batch = Padding(PAD)(features_of([SHORT, LONG]))
    assert batch["input_ids"].tolist() == [[5, 6, 2, PAD, PAD], [7, 8, 9, 10, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 2, -100, -100], [-100, -100, -100, 10, 2]]


def test_a_true_end_mark_stays_trained_though_it_is_the_padding_token() -> None:
    assert Padding(PAD)(features_of([SHORT]))["labels"][0, 2] == PAD


def test_columns_before_the_one_that_predicts_the_first_answer_are_left_out() -> None:
    batch = Padding(PAD, trims=True)(features_of([LONG]))
    assert batch["logits_to_keep"].tolist() == [2, 3, 4]
    assert batch["labels"].tolist() == [[IGNORED, 10, 2]]
    assert batch["input_ids"].shape == (1, 5)
    both = Padding(PAD, trims=True)(features_of([SHORT, LONG]))
    assert both["logits_to_keep"].tolist() == [0, 1, 2, 3, 4]


def test_rows_whose_answer_is_cut_off_are_left_out() -> None:
    rows = Rows([SHORT, LONG], []).cut(3)
    assert rows.train == [SHORT]
    assert rows.lengths == [3]


def test_leaving_logits_out_changes_neither_loss_nor_gradient(tiny) -> None:  # type: ignore[no-untyped-def]
    from lab.tune.adapters import load_base

    model = load_base(tiny, "float32")
    rows = features_of([LONG, SHORT, Encoded([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4], 4)])
    results = []
    for trims in (False, True):
        model.zero_grad()
        loss = model(**Padding(PAD, trims=trims)(rows)).loss
        loss.backward()
        results.append((loss.item(), model.model.layers[0].self_attn.q_proj.weight.grad.clone()))
    assert abs(results[0][0] - results[1][0]) < 1e-6
    torch.testing.assert_close(results[0][1], results[1][1])
