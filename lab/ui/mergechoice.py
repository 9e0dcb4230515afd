"""Which merge method to take, in words: the methods in groups, as a person chooses among them. Pure."""

from lab.merge.registry import merge_methods
from lab.ui import widgets

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Several good models of one base: average them", ("linear", "model_stock", "multislerp", "karcher")),
    ("Two models: blend them", ("slerp", "nuslerp", "nearswap", "arcee_fusion", "pleas")),
    (
        "Fine-tunes that learned different things: add up what each changed",
        ("task_arithmetic", "dare_linear", "della_linear", "breadcrumbs", "varm", "ram", "ramplus_tl"),
    ),
    (
        "Fine-tunes that pull against each other: let the majority decide",
        ("ties", "dare_ties", "della", "breadcrumbs_ties", "sce", "pcb"),
    ),
    ("Models that should read a text first: let it say what counts", ("fisher", "regmean")),
    ("A fine-tune for another base: carry it over", ("patch",)),
    ("One model: stack its layers", ("passthrough",)),
)
"""The methods by what a person wants; one that is not listed here comes last."""


def groups() -> list[tuple[str, list[str]]]:
    """Return the groups with the methods that there are; those in no group are one of their own."""
    listed = {name for _, names in GROUPS for name in names}
    grouped = [(words, [name for name in names if name in merge_methods]) for words, names in GROUPS]
    others = [name for name in merge_methods if name not in listed]
    return [*grouped, *([("Others", others)] if others else [])]


def ordered_methods() -> list[str]:
    """Return all methods, group by group."""
    return [name for _, names in groups() for name in names]


def which_one() -> str:
    """Return a list to unfold: every method in its group, with when to use it."""
    parts = []
    for words, names in groups():
        lines = "".join(
            f"<li><b>{widgets.esc(name)}</b> {widgets.esc(merge_methods[name].use)}</li>" for name in names
        )
        head = f'<p style="margin:8px 0 2px"><b>{widgets.esc(words)}</b></p>'
        parts.append(f'{head}<ul style="margin:0;padding-left:18px">{lines}</ul>')
    return f'<details class="lab-small"><summary>Which one?</summary>{"".join(parts)}</details>'
