"""What a mixture of experts will hold, tensor by tensor, worked out from headers and configs alone.

The experts' files are laid out as their families' own on the Hugging Face hub: one matrix for each
expert, which every version of transformers reads. Reads no weight.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lab.core.errors import BadInput
from lab.core.job import Shelf
from lab.core.need import Need
from lab.merge.expertspec import FREE_MODES, Expert, ExpertsSpec, Layout
from lab.merge.ingredients import HEAD, Ingredient, read_ingredient
from lab.merge.plan import DTYPE_WORDS, FLOATS, MergePlan, OutputTensor, Part, short_count
from lab.merge.registry import MergeMethod, knobs_of
from lab.models.headers import TensorInfo
from lab.models.lazytorch import Tensor, torch

ROUTER = "router"
"""The ingredient that holds what is computed: the routers' rows, and biases of zero."""

_DENSE: Mapping[str, tuple[Layout, ...]] = {
    "llama": ("mixtral", "qwen2_moe"),
    "mistral": ("mixtral", "qwen2_moe"),
    "qwen2": ("qwen2_moe",),
    "qwen3": ("qwen3_moe",),
}
"""Families of dense models, and the layouts that they can become."""

_PARTS = ("gate_proj", "down_proj", "up_proj")


@dataclass(frozen=True)
class Names:
    """What a layout calls things: its architecture, and the parts of a layer."""

    architecture: str
    block: str
    parts: tuple[str, str, str]


NAMES: Mapping[Layout, Names] = {
    "mixtral": Names("MixtralForCausalLM", "block_sparse_moe", ("w1", "w2", "w3")),
    "qwen2_moe": Names("Qwen2MoeForCausalLM", "mlp", _PARTS),
    "qwen3_moe": Names("Qwen3MoeForCausalLM", "mlp", _PARTS),
}


@dataclass(frozen=True, kw_only=True)
class ExpertsPlan(MergePlan):
    """What comes out: as any merge's plan, with the layout and the numbers of experts.

    Attributes:
        layout: the result's family.
        spec: what it was worked out from.
        models: every model, by name.
    """

    layout: Layout
    spec: ExpertsSpec
    models: Mapping[str, Ingredient]

    @property
    def size_words(self) -> str:
        """What will come out, for people."""
        experts = f"{len(self.spec.experts)} experts, {self.spec.experts_per_token} for each token"
        return (
            f"{NAMES[self.layout].architecture}: {self.layers} layers of {experts}, "
            f"{short_count(self.parameters)} parameters, {self.size_bytes / 1e6:.4g} MB in {self.dtype}"
        )


def scaled(values: Tensor, weights: Tensor, *, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Return (x + noise * n) * w with n normal, of one model's values. Shape (1, *weight).

    Args:
        values: shape (1, *weight), float32.
        weights: w. Shape (1,).
        noise: the deviation of what is added.
        seed: of the noise.
    """
    row = values[0].clone()
    if noise:
        row.add_(torch.randn(row.shape, generator=torch.Generator().manual_seed(seed)), alpha=noise)
    return row.mul_(weights[0])


def _scaled_streamed(stack: Any, weights: Tensor, *, noise: float, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for chunk in stack.chunks():
        row = chunk[0]
        if noise:
            row.add_(torch.randn(row.shape, generator=generator), alpha=noise)
        yield row.mul_(weights[0])


COPYING = MergeMethod(
    name="mixture of experts",
    source="Mixtral of Experts, arXiv:2401.04088; routers as mergekit-moe makes them",
    space="weight",
    models=(1, 1),
    use="Puts dense models side by side as experts.",
    function=scaled,
    knobs=knobs_of(scaled)[0],
    per_model=frozenset(),
    nanoseconds=1.0,
    streamed=[_scaled_streamed],
)
"""How a tensor of the result is made from one tensor of one model; the registry doesn't list it."""


def prepare_experts(spec: ExpertsSpec, shelf: Shelf, router: Ingredient | None = None) -> ExpertsPlan:
    """Read the models' headers and work out every tensor.

    Args:
        spec: the mixture.
        shelf: where the models are.
        router: holds the computed tensors; None before they are, for the check.

    Raises:
        BadInput: the models don't fit each other or the layout; names the field.
    """
    models = {}
    for ref in spec.models_used():
        try:
            models[ref] = read_ingredient(ref, shelf)
        except BadInput as error:
            raise error.at(_field_of(spec, ref)) from error
    base = models[spec.base_model]
    layout = _layout_of(spec, base)
    for ref, model in models.items():
        _refuse_misfit(spec, ref, model, base)
    _refuse_unequal(spec, models)
    _refuse_biases(base, layout)
    draft = _Draft(spec, models, layout, router or _unmade(computed_shapes(spec, base, layout), base))
    needs_base = spec.gate_mode not in (*FREE_MODES, "cheap_embed")
    return ExpertsPlan(
        method=COPYING,
        tensors=tuple(draft.tensors()),
        donor=base,
        layers=base.config.layers,
        layer_origins=tuple((base, layer) for layer in range(base.config.layers)),
        tied=base.config.tied,
        parents=spec.models_used(),
        layout=layout,
        spec=spec,
        models=models,
        need=Need(  # the memory of the base, whose hidden states make the routers
            2 * sum(info.elements for info in base.tensors.values()) if needs_base else 0, field="gate_mode"
        ),
    )


def computed_shapes(spec: ExpertsSpec, base: Ingredient, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the tensors that no model has: each layer's router, and Qwen2-MoE's biases where they lack."""
    config, block = base.config, NAMES[layout].block
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(config.layers):
        stem = f"model.layers.{layer}"
        shapes[f"{stem}.{block}.gate.weight"] = (len(spec.experts), config.hidden)
        if layout != "qwen2_moe":
            continue
        shapes[f"{stem}.{block}.shared_expert_gate.weight"] = (1, config.hidden)
        for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            bias = f"{stem}.self_attn.{part}_proj.bias"
            if bias not in base.tensors:
                shapes[bias] = (heads * config.head_size,)
    return shapes


def config_of_experts(plan: ExpertsPlan) -> dict[str, Any]:
    """Return the result's config.json: the base's, with what the layout's family needs."""
    spec, names = plan.spec, NAMES[plan.layout]
    dropped = ("torch_dtype", "layer_types", "max_window_layers", "auto_map", "mlp_bias", "pretraining_tp")
    config = {key: value for key, value in plan.donor.raw.items() if key not in dropped}
    wide = plan.models[spec.experts[0].source_model].config.intermediate
    config |= {
        "architectures": [names.architecture],
        "model_type": plan.layout,
        "intermediate_size": wide,
        "num_experts_per_tok": spec.experts_per_token,
        "tie_word_embeddings": plan.tied,
        "dtype": plan.dtype,
        "output_router_logits": False,
        "sliding_window": None,
    }
    if plan.layout == "mixtral":
        config.pop("attention_bias", None)
        return config | {"num_local_experts": len(spec.experts)}
    config |= {
        "num_experts": len(spec.experts),
        "moe_intermediate_size": wide,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }
    if plan.layout == "qwen2_moe":
        shared = plan.models[spec.shared_experts[0].source_model].config.intermediate
        config |= {"shared_expert_intermediate_size": shared, "qkv_bias": True}
    return config


class _Draft:
    """A mixture while its tensors are worked out."""

    def __init__(
        self, spec: ExpertsSpec, models: Mapping[str, Ingredient], layout: Layout, router: Ingredient
    ) -> None:
        self._spec, self._models, self._router = spec, models, router
        self._base, self._names = models[spec.base_model], NAMES[layout]
        self._dtype = DTYPE_WORDS[spec.dtype] if spec.dtype else self._own_dtype()

    def tensors(self) -> Iterator[OutputTensor]:
        for name in self._base.outer:
            yield self._copy(self._base, name, name)
        for layer in range(self._base.config.layers):
            yield from self._layer(layer)
        if not self._base.config.tied and HEAD in self._base.tensors:
            yield self._copy(self._base, HEAD, HEAD)

    def _layer(self, layer: int) -> Iterator[OutputTensor]:
        stem, block = f"model.layers.{layer}", f"model.layers.{layer}.{self._names.block}"
        for rest, full in self._base.layers[layer].items():
            if not rest.startswith("mlp."):
                yield self._copy(self._base, full, full)
        for name in self._router.tensors:
            if name.startswith(f"{stem}."):
                yield self._copy(self._router, name, name)
        for place, expert in enumerate(self._spec.experts):
            yield from self._expert(expert, layer, f"{block}.experts.{place}")
        for expert in self._spec.shared_experts:
            yield from self._expert(expert, layer, f"{block}.shared_expert")

    def _expert(self, expert: Expert, layer: int, to: str) -> Iterator[OutputTensor]:
        model = self._models[expert.source_model]
        parts = _PARTS if to.endswith("shared_expert") else self._names.parts
        for part, name in zip(_PARTS, parts, strict=True):
            scale = expert.residual_scale if part == "down_proj" else 1.0
            source = f"model.layers.{layer}.mlp.{part}.weight"
            yield self._copy(model, source, f"{to}.{name}.weight", scale, expert.noise_scale)

    def _copy(
        self, model: Ingredient, source: str, to: str, scale: float = 1.0, noise: float = 0.0
    ) -> OutputTensor:
        if source not in model.tensors:
            raise BadInput(
                f"{model.ref} has no {source}.",
                "An expert has gate, up and down projections in every layer.",
                "Choose a dense model of the base's family.",
                field="experts",
            )
        info = model.tensors[source]
        seed = _seed_of(self._spec.seed, to)
        dtype = self._dtype if info.dtype in FLOATS else info.dtype
        knobs = {"noise": noise, "seed": seed}
        return OutputTensor(
            to, dtype, info.shape, (Part(model, source),), None, (scale,), knobs, info.dtype not in FLOATS
        )

    def _own_dtype(self) -> str:
        dtypes = {info.dtype for info in self._base.tensors.values() if info.dtype in FLOATS}
        return dtypes.pop() if len(dtypes) == 1 and "F64" not in dtypes else "F32"


def _seed_of(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed}\0{name}".encode())


def _unmade(shapes: Mapping[str, tuple[int, ...]], base: Ingredient) -> Ingredient:
    """Return an ingredient of tensors that are not computed yet: their shapes only."""
    tensors = {
        name: TensorInfo("F32", shape, Path(ROUTER), 0, 4 * prod(shape)) for name, shape in shapes.items()
    }
    return Ingredient(ROUTER, Path(ROUTER), base.config, {}, tensors)


def _field_of(spec: ExpertsSpec, ref: str) -> str:
    if ref == spec.base_model:
        return "base_model"
    for key, experts in (("experts", spec.experts), ("shared_experts", spec.shared_experts)):
        for place, expert in enumerate(experts):
            if expert.source_model == ref:
                return f"{key}.{place}.source_model"
    return "experts"


def _layout_of(spec: ExpertsSpec, base: Ingredient) -> Layout:
    """Return the layout: what the recipe says, else what the models and a shared expert say."""
    family = base.config.model_type
    possible = _DENSE.get(family, ())
    if not possible:
        raise BadInput(
            f"{base.ref} is of the family {family!r}.",
            f"Experts are made from {', '.join(_DENSE)} models.",
            "Choose models of one of these families.",
            field="base_model",
        )
    wanted: Layout = "qwen2_moe" if spec.shared_experts else possible[0]
    layout = spec.architecture or wanted
    if layout not in possible:
        raise BadInput(
            f"{family} models can't become {layout}.",
            f"They can become {' or '.join(possible)}; shared experts are Qwen2-MoE's alone.",
            "Leave the architecture out, or the shared experts.",
            field="architecture",
        )
    if (layout == "qwen2_moe") != bool(spec.shared_experts):
        raise BadInput(
            f"{layout} and {len(spec.shared_experts)} shared experts don't go together.",
            "Qwen2-MoE has exactly one, the other layouts none.",
            "Give shared_experts one model; residual_scale: 0 silences it.",
            field="shared_experts",
        )
    return layout


def _refuse_misfit(spec: ExpertsSpec, ref: str, model: Ingredient, base: Ingredient) -> None:
    facts = [
        ("family", model.config.model_type, base.config.model_type),
        ("number of layers", model.config.layers, base.config.layers),
        ("width", model.config.hidden, base.config.hidden),
    ]
    for what, seen, expected in facts:
        if seen != expected:
            raise BadInput(
                f"{ref} has the {what} {seen}, {base.ref} {expected}.",
                "An expert's MLPs stand in the base's layers.",
                "Choose fine-tunes of models of one family and size.",
                field=_field_of(spec, ref),
            )


def _refuse_unequal(spec: ExpertsSpec, models: Mapping[str, Ingredient]) -> None:
    """Refuse experts whose MLPs differ in size: a layer keeps them in one block."""
    first = models[spec.experts[0].source_model]
    for place, expert in enumerate(spec.experts):
        model = models[expert.source_model]
        if model.config.intermediate != first.config.intermediate:
            raise BadInput(
                f"The MLPs of {model.ref} are {model.config.intermediate} wide, those of {first.ref} "
                f"{first.config.intermediate}.",
                "All experts of a layer have one size.",
                "Choose models of one size.",
                field=f"experts.{place}.source_model",
            )
    for model in models.values():
        if bias := next((name for name in model.tensors if ".mlp." in name and name.endswith(".bias")), None):
            raise BadInput(
                f"{model.ref} has the bias {bias}.",
                "Experts have no biases.",
                "Choose other models.",
                field=_field_of(spec, model.ref),
            )


def _refuse_biases(base: Ingredient, layout: Layout) -> None:
    """Refuse biases that the layout has no place for."""
    has = {name for name in base.tensors if name.endswith("_proj.bias") and ".self_attn." in name}
    if layout == "qwen2_moe":
        has = {name for name in has if not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))}
    if has:
        raise BadInput(
            f"{base.ref} has biases, such as {sorted(has)[0]}.",
            f"{NAMES[layout].architecture} has none there.",
            "Choose another base.",
            field="base_model",
        )
