"""The check before submitting: what comes out, and every refusal with its field."""

from pathlib import Path

import pytest
import torch
from tiny_merge import HIDDEN, TinyShelf, tensors_of

from lab.core.errors import BadInput
from lab.merge.check import check
from lab.merge.recipe import read_recipe
from lab.merge.spec import MergeSpec, merge_of, upscaled


def refusal(spec: MergeSpec, shelf: TinyShelf, words: str) -> str | None:
    with pytest.raises(BadInput, match=words) as refused:
        check(spec, shelf)
    return refused.value.field


def pair(first: str = "a", second: str = "other") -> MergeSpec:
    return merge_of("linear", [(first, 1), (second, 1)], name="out")


def test_the_plan_says_what_will_come_out(family: TinyShelf):
    plan = check(merge_of("ties", [("a", 1), ("b", 1)], base="base", name="out"), family)
    assert (plan.layers, plan.parameters, plan.size_bytes, plan.dtype) == (2, 1288, 2576, "bfloat16")
    assert plan.parents == ("base", "a", "b")
    assert plan.words == "2 layers, 1.288 thousand parameters, 2.576 kB in bfloat16, about 2 seconds"


def test_the_plan_of_depth_upscaling_counts_the_stacked_layers(shelf: TinyShelf):
    shelf.add("deep", tensors_of(6, seed=1))
    plan = check(upscaled("deep", 6, 2, name="out"), shelf)
    layer = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * 12 + 2 * HIDDEN
    assert (plan.layers, plan.parameters) == (8, 20 * HIDDEN + HIDDEN + 8 * layer)


def test_a_larger_dtype_makes_a_larger_result(family: TinyShelf):
    spec = merge_of("linear", [("a", 1), ("b", 1)], name="out", dtype="float32")
    assert check(spec, family).size_bytes == 4 * 1288


def test_gradients_and_filters_reach_the_tensors_as_mergekit_says(shelf: TinyShelf):
    shelf.add("deep", tensors_of(3, seed=1))
    shelf.add("twin", tensors_of(3, seed=2))
    spec = read_recipe(
        """
        models:
          - {model: deep, parameters: {weight: [0.0, 1.0]}}
          - {model: twin, parameters: {weight: [{filter: mlp, value: 0.25}, {value: [1.0, 3.0]}]}}
        merge_method: linear
        """,
        name="out",
    )
    weights = {tensor.name: tensor.weights for tensor in check(spec, shelf).tensors}
    assert weights["model.layers.1.self_attn.q_proj.weight"] == (0.5, 2.0)
    assert weights["model.layers.2.mlp.up_proj.weight"] == (1.0, 0.25)
    assert weights["model.embed_tokens.weight"] == (0.0, 1.0)  # outside layers the first value counts
    assert weights["model.norm.weight"] == (0.0, 1.0)


def test_slices_take_their_layers_and_the_ends_from_first_and_last(shelf: TinyShelf):
    for name, seed in (("one", 1), ("two", 2)):
        shelf.add(name, tensors_of(3, seed=seed))
    spec = read_recipe(
        """
        slices:
          - sources: [{model: one, layer_range: [1, 3]}]
          - sources: [{model: two, layer_range: [0, 1]}]
        merge_method: passthrough
        """,
        name="out",
    )
    origins = {
        tensor.name: (tensor.inputs[0].model.ref, tensor.inputs[0].tensor)
        for tensor in check(spec, shelf).tensors
    }
    assert origins["model.embed_tokens.weight"] == ("one", "model.embed_tokens.weight")
    assert origins["model.layers.0.input_layernorm.weight"] == (
        "one",
        "model.layers.1.input_layernorm.weight",
    )
    assert origins["model.layers.2.input_layernorm.weight"] == (
        "two",
        "model.layers.0.input_layernorm.weight",
    )
    assert origins["model.norm.weight"] == ("two", "model.norm.weight")


def test_the_base_is_no_input_of_deltas_even_if_it_is_listed(family: TinyShelf):
    spec = read_recipe("models: [{model: base}, {model: a}]\nmerge_method: sce\nbase_model: base", name="out")
    tensor = check(spec, family).tensors[0]
    assert [part.model.ref for part in tensor.inputs] == ["a"]
    assert tensor.base is not None


def test_slerp_starts_from_the_base_wherever_it_is_listed(family: TinyShelf):
    spec = read_recipe("models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: b", name="out")
    assert [part.model.ref for part in check(spec, family).tensors[0].inputs] == ["b", "a"]


def test_slerp_of_a_model_with_itself_has_it_twice(family: TinyShelf):
    spec = read_recipe("models: [{model: b}, {model: b}]\nmerge_method: slerp\nbase_model: b", name="out")
    assert [part.model.ref for part in check(spec, family).tensors[0].inputs] == ["b", "b"]


def test_a_model_that_is_not_there_is_named(family: TinyShelf):
    assert refusal(pair(second="gone"), family, "There is no model 'gone'") == "models.1.model"
    spec = merge_of("ties", [("a", 1)], base="gone", name="out")
    assert refusal(spec, family, "There is no model 'gone'") == "base_model"


def test_a_folder_that_is_no_model_is_refused(family: TinyShelf):
    (family.room / "other").mkdir()
    assert refusal(pair(), family, "holds no model.safetensors") == "models.1.model"


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_truncated_weight_file_is_refused(family: TinyShelf, cut: int):
    file: Path = family.add("other", tensors_of(2, seed=5)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert refusal(pair(), family, "model.safetensors") == "models.1.model"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "other is a MistralForCausalLM, a a LlamaForCausalLM"),
        ({"vocab_size": 24}, "other has a vocabulary of 24, a of 20"),
        ({"hidden_size": 16}, "other has a width of 16, a one of 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
    ],
)
def test_a_model_of_another_kind_is_refused_and_named(family: TinyShelf, config: dict, words: str):
    family.add("other", tensors_of(2, seed=5), **config)
    assert refusal(pair(), family, words) == "models.1.model"


def test_models_of_different_depth_are_refused(family: TinyShelf):
    family.add("other", tensors_of(3, seed=5))
    assert refusal(pair(), family, "different numbers of layers: a 2, other 3") == "models"


def test_a_tensor_of_another_shape_is_named(family: TinyShelf):
    tensors = tensors_of(2, seed=5)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(10, HIDDEN)
    family.add("other", tensors)
    words = r"model\.layers\.1\.mlp\.up_proj\.weight has different shapes: a \(12, 8\), other \(10, 8\)"
    assert refusal(pair(), family, words) == "models"


def test_a_tensor_that_only_one_model_has_is_named(family: TinyShelf):
    tensors = tensors_of(2, seed=5)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    family.add("other", tensors)
    assert refusal(pair(), family, r"other lacks a tensor .*: layer 1, mlp\.up_proj\.weight") == "models"
    family.add("more", {**tensors_of(2, seed=5), "model.extra.weight": torch.zeros(2)})
    assert refusal(pair(second="more"), family, r"a lacks a tensor .*: model\.extra\.weight") == "models"
    more = tensors_of(2, seed=5) | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(HIDDEN)}
    family.add("biased", more)
    assert (
        refusal(pair(second="biased"), family, r"a lacks a tensor .*: layer 0, self_attn\.q_proj\.bias")
        == "models"
    )


def test_a_layer_range_beyond_the_model_names_its_field(family: TinyShelf):
    spec = read_recipe(
        """
        slices:
          - sources: [{model: a, layer_range: [0, 2]}]
          - sources: [{model: a, layer_range: [1, 9]}]
        merge_method: passthrough
        """,
        name="out",
    )
    assert (
        refusal(spec, family, "1 to 9 goes beyond a, which has 2 layers") == "slices.1.sources.0.layer_range"
    )


def test_weights_that_sum_to_zero_are_refused_where_they_are_divided_by(family: TinyShelf):
    models = [("a", 0.5), ("b", -0.5)]
    words = "sum to zero"
    assert refusal(merge_of("linear", models, name="out"), family, words) == "models"
    assert refusal(merge_of("ties", models, base="base", name="out"), family, words) == "models"
    check(merge_of("linear", models, name="out", knobs={"normalize": False}), family)


def test_weights_that_sum_to_zero_in_one_layer_only_are_found_too(family: TinyShelf):
    text = """
    models:
      - {model: a, parameters: {weight: [1.0, 0.5]}}
      - {model: b, parameters: {weight: [1.0, -0.5]}}
    merge_method: linear
    """
    assert refusal(read_recipe(text, name="out"), family, r"model\.layers\.1\..*sum to zero") == "models"


def test_a_model_without_a_weight_for_a_tensor_is_named(family: TinyShelf):
    text = """
    models:
      - {model: a, parameters: {weight: 1.0}}
      - {model: b, parameters: {weight: [{filter: mlp, value: 0.5}]}}
    merge_method: linear
    """
    words = r"b has no weight for model\.embed_tokens\.weight"
    assert refusal(read_recipe(text, name="out"), family, words) == "models.1.parameters.weight"


def test_a_result_larger_than_the_disk_is_refused(family: TinyShelf):
    family.free = 1000
    assert refusal(pair(second="b"), family, "the disk has 0.00 GB free") == "out_dtype"


def test_eight_bit_floats_are_refused(family: TinyShelf):
    tensors = {name: value.clamp(-1, 1) for name, value in tensors_of(2, seed=5).items()}
    family.add("other", tensors, torch.float8_e4m3fn)
    assert refusal(pair(), family, "F8_E4M3") == "models"


def test_a_merge_of_folders_loads_no_library_that_it_does_not_need():
    import subprocess
    import sys

    heavy = (
        "transformers",
        "peft",
        "gradio",
        "sqlalchemy",
        "plotly",
        "pandas",
        "scipy",
        "fsspec",
        "lab.merge.methods.ties",
    )
    code = (
        "import sys, lab.cli, lab.merge.check, lab.merge.recipe, lab.merge.run, workers.device; "
        "lab.merge.registry.merge_methods['linear']; "
        f"print(*set({heavy}) & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_a_base_that_lacks_a_layers_tensor_is_named(family: TinyShelf):
    tensors = tensors_of(2, seed=5)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    family.add("bare", tensors)
    spec = merge_of("ties", [("a", 1)], base="bare", name="out")
    assert refusal(spec, family, r"bare lacks a tensor .*: layer 0, mlp\.up_proj\.weight") == "models"
