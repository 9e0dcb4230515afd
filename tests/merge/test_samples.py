"""A sample of a tensor is what reading all of it gives at the same places, for every kind of stack."""

from pathlib import Path

import pytest
import tiny_models
import torch
from fakes import FakeShelf
from test_adapter_result import add_lora
from tiny_merge import TinyShelf
from tiny_vocabularies import add_model, words_tokenizer

from lab.merge import reading, rows
from lab.merge.check import prepare
from lab.merge.plan import OutputTensor
from lab.merge.reading import ChangeStack, Reader, Scratch, TensorStack
from lab.merge.recipe import read_recipe
from lab.merge.spec import merge_of

COUNTS = (1, 7, 40)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 24)
    monkeypatch.setattr(rows, "_MEAN_ELEMENTS", 24)
    monkeypatch.setattr(reading, "_SAMPLED", 24)


def holds_its_places(tensor: OutputTensor, kind: type[TensorStack]) -> bool:
    def stack() -> TensorStack:
        return kind(tensor, Reader(), Scratch(len(tensor.inputs)), lambda: None)

    whole = torch.cat([chunk.clone() for chunk in stack().chunks()], 1)
    assert whole.count_nonzero() > 0
    steps = {count: whole.shape[1] // count | 1 for count in COUNTS}
    return all(
        torch.allclose(stack().sample(count), whole[:, ::step], atol=1e-6) for count, step in steps.items()
    )


@pytest.fixture
def adapters(tmp_path: Path) -> FakeShelf:
    tiny_models.write_model(tmp_path / "base")
    add_lora(tmp_path, "one", ["q_proj", "v_proj"], rank=4, seed=1)
    add_lora(tmp_path, "two", ["q_proj"], rank=2, seed=2)
    return FakeShelf(tmp_path)


@pytest.mark.parametrize("kind", [TensorStack, ChangeStack])
def test_adapters_beside_their_base_and_their_changes_alone(adapters: FakeShelf, kind: type[TensorStack]):
    models = [("one", 1.0), ("two", 1.0)]
    plan = prepare(merge_of("task_arithmetic", models, base="base", name="x"), adapters)
    changed = [tensor for tensor in plan.tensors if "q_proj" in tensor.name or "v_proj" in tensor.name]
    assert changed
    assert all(holds_its_places(tensor, kind) for tensor in changed)


def test_rows_of_another_vocabulary_with_lent_and_padding_rows(shelf: TinyShelf):
    add_model(shelf, "a", words_tokenizer(["<unk>", "cat", "sat"]), count=3)
    add_model(shelf, "b", words_tokenizer(["<unk>", "dog"]), count=2, start=10)
    text = (
        "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
        "merge_method: linear\ntokenizer: {source: union, pad_to_multiple_of: 8}\n"
    )
    plan = prepare(read_recipe(text, name="x"), shelf)
    [embedding] = [tensor for tensor in plan.tensors if tensor.relayout is not None]
    assert holds_its_places(embedding, TensorStack)
