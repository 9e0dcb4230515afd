"""From what stands in the merge form to a spec, and from a plan to the pictures beside the form. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from lab.core.errors import BadInput, Problem
from lab.merge.adapters import SUMS, AdapterPlan
from lab.merge.expertplan import ExpertsPlan
from lab.merge.expertspec import ExpertsSpec, is_experts, read_experts
from lab.merge.plan import MergePlan
from lab.merge.recipe import read_recipe
from lab.merge.registry import merge_methods
from lab.merge.spec import MergeSpec, merge_of
from lab.ui import charts, widgets
from lab.ui.mergeheat import drawable, heat_rows
from lab.ui.words import count, duration, size

STACK = "layers"
"""What the heat map draws of a stack: which layer stands where."""

_RANGE = re.compile(r"^(?:(?P<model>[A-Za-z0-9._-]+)\s*:\s*)?(?P<first>\d+)\s*-\s*(?P<end>\d+)$")


@dataclass(frozen=True)
class Filled:
    """The merge form as somebody filled it in.

    Attributes:
        method: the merge method's name.
        inputs: model and weight of every row that has a model.
        base: the base model, or nothing.
        name: what to call the result.
        dtype: its dtype, or nothing to keep the models'.
        knobs: the chosen method's knobs.
        ranges: layer ranges, one a line, for methods that stack layers.
        seed: of the random numbers of methods that draw.
        data: the dataset that each model reads first, for methods that learn from texts.
        recipe: mergekit YAML that replaces all of the above but the name; "" uses the form.
        keeps_steps: whether the named merges on the way of a recipe are listed too.
        is_adapter: whether adapters are to become an adapter.
        rank: of that adapter, or nothing to let the method say.
        tokenizer: "union" or "base" for models of different vocabularies; None keeps the base's rows.
    """

    method: str
    inputs: tuple[tuple[str, float], ...]
    base: str | None = None
    name: str = ""
    dtype: Any = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    ranges: str = ""
    recipe: str = ""
    keeps_steps: bool = False
    is_adapter: bool = False
    rank: int | None = None
    tokenizer: str | None = None
    seed: int = 0
    data: Mapping[str, str] = field(default_factory=dict)

    def spec(self, tell: Callable[[str], None] = lambda _: None) -> MergeSpec | ExpertsSpec:
        """Return the spec; `tell` hears what of a recipe has no effect.

        Raises:
            ValidationError, BadInput: something doesn't fit; the field is named.
        """
        if self.recipe.strip() and is_experts(self.recipe):
            return read_experts(self.recipe, name=self.name)
        if self.recipe.strip():
            return read_recipe(self.recipe, name=self.name, tell=tell, keep_intermediates=self.keeps_steps)
        spec = self._stacked() if stacks_layers(self.method) else self._merged()
        return spec.as_adapter(self.rank) if self.is_adapter else spec

    def _merged(self) -> MergeSpec:
        return merge_of(
            self.method, self.inputs, name=self.name, base=self.base, knobs=self.knobs, dtype=self.dtype,
            data=self.data, tokenizer=self.tokenizer, seed=self.seed,
        )  # fmt: skip

    def _stacked(self) -> MergeSpec:
        if not self.inputs:
            raise BadInput(
                "No model is chosen.", "Layers are stacked from a model.", "Choose one.", field="models"
            )
        slices = read_ranges(self.ranges, self.inputs[0][0])
        return MergeSpec.model_validate(
            {
                "name": self.name,
                "method": self.method,
                "slices": [
                    {"sources": [{"model": model, "layer_range": layers}]} for model, layers in slices
                ],
                "parameters": dict(self.knobs),
                "dtype": self.dtype,
            }
        )


def stacks_layers(method: str) -> bool:
    """Whether a method takes one model at a time, so that it can only stack layers."""
    return merge_methods[method].models[1] == 1


def solar_ranges(layers: int, drop: int) -> str:
    """Return the ranges of SOLAR's depth up-scaling: 0 to n-m, then m to n."""
    return f"0-{max(layers - drop, 1)}\n{min(drop, max(layers - 1, 0))}-{layers}"


def read_ranges(text: str, model: str) -> list[tuple[str, tuple[int, int]]]:
    """Read layer ranges, one a line: "0-24", or "other-model: 8-32"; the end is not included.

    Args:
        text: the lines.
        model: the model of lines that name none.

    Raises:
        BadInput: a line is no range, or there is none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _RANGE.match(line.strip())
        if match is None:
            raise BadInput(
                f"Line {number} of the layer ranges is {line.strip()[:40]!r}.",
                "A range reads 0-24: the first layer, and the one after the last.",
                "Mend the line.",
                field="slices",
            )
        found.append((match["model"] or model, (int(match["first"]), int(match["end"]))))
    if not found:
        raise BadInput(
            "There is no layer range.", "A range reads 0-24.", "Give at least one.", field="slices"
        )
    return found


def plan_html(plan: MergePlan) -> str:
    """Say what will come out: figures first, then what was checked."""
    figures = widgets.figures(
        [
            ("Rank", str(plan.rank)) if isinstance(plan, AdapterPlan) else ("Layers", str(plan.layers)),
            ("Parameters", count(plan.parameters)),
            ("On disk", f"{size(plan.size_bytes)}"),
            ("Precision", plan.dtype),
            ("Takes about", duration(max(round(plan.seconds), 1))),
        ]
    )
    looks = [("lab-yes", words) for words in _checks(plan)] + [("lab-so", words) for words in plan.remarks]
    lines = "".join(f'<li class="{look}"><span>{widgets.esc(words)}</span></li>' for look, words in looks)
    return f'{figures}<ul class="lab-checks" style="margin-top:16px">{lines}</ul>{vocabulary_html(plan)}'


def _checks(plan: MergePlan) -> list[str]:
    """Say what was checked."""
    models = list(dict.fromkeys(plan.parents))
    if isinstance(plan, ExpertsPlan):
        return [
            f"{len(plan.spec.experts)} experts as {plan.layout}, {plan.spec.experts_per_token} for a token",
            f"attention, embeddings and tokenizer come from {plan.donor.ref}",
            f"routers are made with {plan.spec.gate_mode}; nothing is trained",
            "the result fits on the disk",
        ]
    if isinstance(plan, AdapterPlan):
        return [
            f"adapters of {plan.base_ref}: {', '.join(models[1:])}",
            f"{len(plan.tensors):,} matrices are changed; the result is an adapter of the same base",
            "the factors are stacked, which is exact, and cut only to a smaller rank"
            if plan.method.name in SUMS
            else "each merged change is cut to the rank; the job's notes say what that costs",
            "the result fits on the disk",
        ]
    return [
        f"{len(models)} models of one architecture: {', '.join(models)}"
        if len(models) > 1
        else f"every layer comes from {models[0]}",
        f"{len(plan.tensors):,} tensors have the same shapes"
        + ("" if plan.vocabulary else ", and vocabularies match"),
        _origin(plan),
        *_steps(plan),
        "the result fits on the disk",
    ]


def vocabulary_html(plan: MergePlan) -> str:
    """Return a table of what becomes of each model's vocabulary; "" where they are left as they are."""
    if plan.vocabulary is None:
        return ""
    names = ("model", "tokens", "kept", "dropped", "from another", "a mean", "zero")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in astuple(tally)) + "</tr>"
        for tally in plan.vocabulary.tally
    )
    notes = "".join(widgets.note(words) for words in plan.vocabulary.notes)
    return (
        '<h3 class="lab-h3" style="margin-top:16px">Vocabulary</h3>'
        '<p class="lab-muted lab-small">Tokens of each model, and where the rows come from that it lacks.</p>'
        f'<div style="overflow-x:auto"><table class="lab-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{notes}"
    )


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else widgets.esc(value)


def _origin(plan: MergePlan) -> str:
    """Say where tokenizer and settings come from."""
    if plan.vocabulary is None:
        return f"tokenizer and settings come from {plan.donor.ref}"
    new = f" and {len(plan.vocabulary.new):,} more" if plan.vocabulary.new else ""
    return (
        f"{plan.vocab:,} rows of vocabulary: the tokens of {plan.vocabulary.donor.ref}{new}; "
        f"settings come from {plan.donor.ref}"
    )


def makes_steps(plan: MergePlan | AdapterPlan | ExpertsPlan) -> bool:
    """Whether other merges are made first."""
    return isinstance(plan, MergePlan) and bool(plan.before)


def _steps(plan: MergePlan) -> list[str]:
    """Say what is made first."""
    if not plan.before:
        return []
    methods = ", ".join(step.method.name for step in plan.before)
    count_of = "one merge is" if len(plan.before) == 1 else f"{len(plan.before)} merges are"
    return [f"{count_of} made first, in the job's folder: {methods}"]


def heat_map(plan: MergePlan, wish: str | None = None) -> tuple[Any, list[str], str]:
    """Draw what each layer gets, of the parameter that is wished for or else of the one that varies most.

    Returns:
        The figure, what can be drawn (nothing of a mixture of experts), and what is; of a stack, which
        layer stands where.
    """
    if isinstance(plan, ExpertsPlan):
        return None, [], ""
    if stacks_layers(plan.method.name):
        return (
            charts.stacked_layers([(model.ref, layer) for model, layer in plan.layer_origins]),
            [STACK],
            STACK,
        )
    names = drawable(plan)
    what = wish if wish in names else next(iter(names), "")
    return charts.layer_heat_map(heat_rows(plan, what) if what else [], what), names, what


def problems_html(problems: Sequence[Problem]) -> str:
    """Return what stands in the way, each with its field."""
    lines = "".join(
        f'<li class="lab-no"><span>{widgets.esc(problem.message)}</span></li>' for problem in problems
    )
    return f'<ul class="lab-checks" role="alert">{lines}</ul>'
