"""mergekit's YAML, in and out."""

import pytest
import yaml
from pydantic import ValidationError

from lab.core.errors import BadInput
from lab.core.plain_yaml import MOST_BYTES
from lab.merge.parameters import Filtered
from lab.merge.recipe import read_recipe, write_recipe
from lab.merge.spec import merge_of, upscaled

TIES = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""

SLERP = """
slices:
  - sources:
      - model: psmathur/orca_mini_v3_13b
        layer_range: [0, 40]
      - model: garage-bAInd/Platypus2-13B
        layer_range: [0, 40]
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""

LINEAR = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      weight: 1.0
  - model: WizardLM/WizardLM-13B-V1.2
    parameters:
      weight: -3e-1
merge_method: linear
dtype: float32
out_dtype: bfloat16
"""

FRANKEN = """
slices:
  - sources:
    - model: one
      layer_range: [0, 24]
  - sources:
    - model: two
      layer_range: [8, 32]
      parameters:
        scale:
          - filter: o_proj
            value: 0.0
          - value: 1.0
merge_method: passthrough
dtype: bfloat16
"""

SCE = """
models:
  - model: one
  - model: two
  - model: base
merge_method: sce
base_model: base
parameters:
  select_topk: 1e-1
"""

EXAMPLES = {"ties": TIES, "slerp": SLERP, "linear": LINEAR, "franken": FRANKEN, "sce": SCE}


def field_of(text: str, words: str) -> str | None:
    with pytest.raises(BadInput, match=words) as refused:
        read_recipe(text, name="out")
    return refused.value.field


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_a_recipe_survives_being_read_and_written(text: str):
    spec = read_recipe(text, name="out")
    assert read_recipe(write_recipe(spec), name="out") == spec


@pytest.mark.parametrize(
    "spec",
    [
        merge_of("ties", [("a", 1.0), ("b", -0.5), ("a", 0.1)], base="c", name="out", knobs={"lambda": 0.5}),
        merge_of("slerp", [("a", 1.0), ("b", 1.0)], name="out", knobs={"t": [0, 1]}),
        upscaled("a", 30, 8, name="out"),
    ],
    ids=["ties", "slerp", "upscaled"],
)
def test_what_the_page_makes_survives_as_yaml(spec):
    assert read_recipe(write_recipe(spec), name="out") == spec


def test_gradients_filters_and_numbers_are_read_as_mergekit_reads_them():
    spec = read_recipe(TIES, name="out")
    assert spec.models[0].parameters == {"density": (1.0, 0.7, 0.1), "weight": 1.0}
    assert spec.models[2].parameters["weight"] == (Filtered(filter="mlp", value=0.5), Filtered(value=0.0))
    assert (spec.base_model, spec.dtype) == ("TheBloke/Llama-2-13B-fp16", "float16")
    assert read_recipe(LINEAR, name="out").models[1].parameters["weight"] == -0.3
    assert read_recipe(SCE, name="out").parameters["select_topk"] == 0.1  # YAML 1.1 has 1e-1 as a text
    assert [part.sources[0].layer_range for part in read_recipe(FRANKEN, name="out").slices] == [
        (0, 24),
        (8, 32),
    ]


def test_what_has_no_effect_is_left_out_and_told():
    told: list[str] = []
    read_recipe(TIES, name="out", tell=told.append)
    assert told == ["parameters.int8_mask is left out: it has no effect on the result of ties."]


def test_mergekits_long_form_of_a_model_is_its_path():
    long = SCE.replace("model: one", "model: {model: {path: one}}")
    assert read_recipe(long, name="out") == read_recipe(SCE, name="out")


@pytest.mark.parametrize(
    ("old", "new", "words", "field"),
    [
        (
            "merge_method: ties",
            "merge_metod: ties",
            "no key 'merge_metod'. Did you mean 'merge_method'",
            "merge_metod",
        ),
        ("density: 0.5", "densty: 0.5", "'densty'. Did you mean 'density'", "models.1.parameters.densty"),
        (
            "      weight: 1.0",
            "      wieght: 1.0",
            "'wieght'. Did you mean 'weight'",
            "models.0.parameters.wieght",
        ),
        (
            "          value: 0.5",
            "          vaule: 0.5",
            "'vaule'. Did you mean",
            "models.2.parameters.weight.0.vaule",
        ),
        ("merge_method: ties", "merge_method: tise", "Did you mean 'ties'", "merge_method"),
        ("int8_mask: true", "int8_mask: true\n  gamma: 0.1", "'gamma'", "parameters.gamma"),
        ("merge_method: ties", "", "has no merge_method", "merge_method"),
        ("dtype: float16", "modules: {text: 1}", "one module, 'default'", "modules"),
        ("dtype: float16", "modules: {default: {}}", "one of the three", "modules"),
        (
            "dtype: float16",
            "tokenizer: {sorce: union}",
            "'sorce'. Did you mean 'source'",
            "tokenizer.sorce",
        ),
        (
            "dtype: float16",
            "tokenizer: {tokens: {x: {fource: 1}}}",
            "'fource'. Did you mean 'force'",
            "tokenizer.tokens.x.fource",
        ),
        (
            "dtype: float16",
            "tokenizer: {tokens: {x: {source: {kind: zeros}}}}",
            "is of kind zero or model_token",
            "tokenizer.tokens.x.source.kind",
        ),
        (
            "dtype: float16",
            "tokenizer: {}\ntokenizer_source: base",
            "Keep one of the two",
            "tokenizer_source",
        ),
        (
            "base_model: TheBloke/Llama-2-13B-fp16",
            "base_model: {model: {path: a, revison: b}}",
            "'revison'. Did you mean 'revision'",
            "base_model.model.revison",
        ),
        ("- model: garage", "- mdoel: garage", "'mdoel'. Did you mean 'model'", "models.1.mdoel"),
        ("  - model: psmathur/orca_mini_v3_13b\n", "  - parameters: 3\n", ".", "recipe"),
        ("base_model: TheBloke/Llama-2-13B-fp16", "base_model: [a]", "base_model is", "base_model"),
    ],
)
def test_a_recipe_that_asks_for_something_else_names_the_key(old: str, new: str, words: str, field: str):
    assert old in TIES
    assert field_of(TIES.replace(old, new, 1), words) == field


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "The recipe is empty"),
        ("just words", "The recipe is 'just words'"),
        ("[1, 2]", "It is a table"),
        ("models: {a: 1}\nmerge_method: linear", "It is a list"),
        ("models: [3]\nmerge_method: linear", "It is a table"),
        ("models: [\n", "can't be read"),
        ("a: &x [1]\nb: *x", "anchors"),
        ("a: *x", "anchors"),
        ("a: !!python/object/apply:os.system ['true']", "tags"),
        ("a: !!binary aGk=", "tags"),
        ("a: 1\na: 2", "'a' appears twice"),
        ("merge_method: linear\n<<: {dtype: float32}", "no key '<<'"),
        ("[" * 50_000, "nested too deeply"),
        ("a: " + "x" * MOST_BYTES, "at most 262,144 are read"),
        ("a: \x00", "can't be read"),
        ("a: 1\n---\nb: 2", "2 documents have no name"),
    ],
)
def test_text_that_is_no_recipe_is_refused_in_a_sentence(text: str, words: str):
    with pytest.raises(BadInput) as refused:
        read_recipe(text, name="out")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "{}", "[]", "[[1]]", "null"])
def test_a_value_that_is_no_number_is_refused_where_it_stands(value: str):
    with pytest.raises(ValidationError, match="density"):
        read_recipe(TIES.replace("density: 0.5", f"density: {value}"), name="out")


def test_what_is_written_is_plain_yaml_that_mergekit_reads():
    written = yaml.safe_load(write_recipe(read_recipe(FRANKEN, name="out")))
    assert written["slices"][1]["sources"][0] == {
        "model": "two",
        "layer_range": [8, 32],
        "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]},
    }
    assert written["merge_method"] == "passthrough"


def test_a_recipe_may_say_the_seed_of_methods_that_draw():
    spec = read_recipe(TIES + "seed: 7\n", name="out")
    assert spec.seed == 7
    assert read_recipe(write_recipe(spec), name="out") == spec
    assert "seed" not in write_recipe(read_recipe(TIES, name="out"))
