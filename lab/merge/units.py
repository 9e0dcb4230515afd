"""Which tensors of a decoder layer share hidden units that may be permuted together, and which way they lie.

Two sorts: the units of the feed-forward block, and the groups of heads that share a key and value. Knows
names and configs only. The residual stream, which all layers share, stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lab.core.errors import BadInput
from lab.merge.plan import MergePlan

FEED_FORWARD = {"mlp.gate_proj": "rows", "mlp.up_proj": "rows", "mlp.down_proj": "columns"}
ATTENTION = {
    "self_attn.q_proj": "rows",
    "self_attn.k_proj": "rows",
    "self_attn.v_proj": "rows",
    "self_attn.o_proj": "columns",
}


@dataclass(frozen=True)
class Side:
    """One tensor of a set of units.

    Attributes:
        tensor: its name in every model.
        axis: "rows" or "columns": along which the units lie.
        block: how many rows or columns a unit has.
    """

    tensor: str
    axis: str
    block: int


@dataclass(frozen=True)
class Units:
    """Hidden units that may be permuted together.

    Attributes:
        count: how many there are.
        sides: the tensors that they lie in.
    """

    count: int
    sides: tuple[Side, ...]


def units_of(plan: MergePlan) -> list[Units]:
    """Return all sets of units of a merge's models, layer by layer."""
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors if not tensor.copied}
    layers = dict.fromkeys(name.partition(".mlp.")[0] for name in shapes if ".mlp.gate_proj.weight" in name)
    groups = int(plan.donor.raw.get("num_key_value_heads") or plan.donor.raw.get("num_attention_heads") or 1)
    found = []
    for layer in layers:
        found.append(_units(layer, FEED_FORWARD, shapes, shapes[f"{layer}.mlp.gate_proj.weight"][0]))
        found.append(_units(layer, ATTENTION, shapes, groups))
    return found


def refuse_unknown_units(plan: MergePlan) -> None:
    """Refuse models whose layers are built otherwise.

    Raises:
        BadInput: names what was looked for.
    """
    wanted = {name.rpartition(".")[2] for name in (*FEED_FORWARD, *ATTENTION)}
    present = {name.split(".")[-2] for name in (tensor.name for tensor in plan.tensors) if "." in name}
    if not wanted <= present:
        raise BadInput(
            f"{plan.donor.ref} has no {', '.join(sorted(wanted - present))}.",
            f"{plan.method.name} aligns layers of the Llama kind, with {', '.join(sorted(wanted))}.",
            "Choose another method.",
            field="method",
        )


def _units(layer: str, parts: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], count: int) -> Units:
    sides = []
    for part, axis in parts.items():
        for kind in ("weight", "bias"):
            name = f"{layer}.{part}.{kind}"
            if name not in shapes or (kind == "bias" and axis == "columns"):
                continue  # a bias behind the units belongs to the residual stream
            sides.append(Side(name, axis, shapes[name][0 if axis == "rows" else 1] // count))
    return Units(count, tuple(sides))
