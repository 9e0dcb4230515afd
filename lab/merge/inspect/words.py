"""What the figures mean for a merge, in plain sentences that bring their numbers. Pure.

Every threshold is a constant here with the reason beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lab.merge.inspect.kinship import LARGE, SMALL, Tally, pairs
from lab.merge.inspect.places import Place
from lab.merge.inspect.report import Report

Look = Literal["calm", "warm", "bad"]

BARELY = 0.001
"""|d| / |b| of light fine-tunes is 0.0001 to 0.0008."""
FAR = 0.3
"""Fine-tunes stay within a few percent; a third of the weights' own length is another training."""
UNRELATED, ALIKE, AGAINST = 0.2, 0.6, -0.1
"""Cosines of task vectors: of unrelated ones near 0."""
AT_ODDS = 0.52
"""Sign conflicts of unrelated changes are 50 %."""
SLERP_IS_LINEAR = 0.9995
"""Above this cosine slerp is computed as a straight line, here and in mergekit."""
DARE_SHARE, DARE_FAILS = 0.99, 0.05
"""Shares: of changes within SMALL that bears dropping 90 to 99 %, and beyond LARGE that does not."""
NORM_SLACK = 0.05
"""A norm counts as no parent's when it is so far outside the range of theirs."""

_MOST_NAMED = 3
_MOST_ALIKE = 4


@dataclass(frozen=True)
class Sentence:
    """One thing to say; `look` is calm for a fact, warm for advice that matters, bad for what is wrong."""

    text: str
    look: Look = "calm"


def sentences(report: Report) -> list[Sentence]:
    """Say what a report amounts to, what is wrong first."""
    told = broken_words(report)
    told += _after(report) if report.purpose == "after" else _before(report)
    if report.left_out:
        names = _listed(report.left_out)
        told.append(
            Sentence(f"{_tensors(report.left_out, 'is', 'are')} not in all models alike: {names}.", "warm")
        )
    order = {"bad": 0, "warm": 1, "calm": 2}
    return sorted(told, key=lambda one: order[one.look])


def broken_words(report: Report) -> list[Sentence]:
    """Say which model holds NaN or infinite values, and where."""
    told = []
    for model, name in enumerate((report.base, *report.models)):
        found = [one.name for one in report.figures if _broken(one.tally, model - 1)]
        if found:
            told.append(
                Sentence(f"{name} holds NaN or infinite values in {_listed(found)}: it is damaged.", "bad")
            )
    return told


def moved_words(name: str, base: str, model: int, report: Report) -> Sentence:
    """Say how far a model has moved from the reference, and where it did not."""
    tally = report.whole
    distance = tally.distance(model)
    if distance is None or not tally.moved[model]:
        looked = " that was looked at" if report.is_sampled else ""
        return Sentence(f"{name} equals {base} in every weight{looked}: it adds nothing to a merge.", "warm")
    told = f"({percent(distance)})"
    where = _where(model, report)
    if distance < BARELY:
        return Sentence(f"{name} has barely moved from {base} {told}{where}.")
    if distance > FAR:
        return Sentence(
            f"{name} is far from {base} {told}: it is hardly a fine-tune of it, and methods that add "
            "changes to a base expect one.",
            "warm",
        )
    return Sentence(f"{name} has moved {percent(distance)} from {base}{where}.")


def pair_words(one: str, two: str, pair: int, report: Report) -> list[Sentence]:
    """Say whether two models moved the same way, each its own, or against each other."""
    cosine, conflicts = report.whole.cosine(pair), report.whole.conflicts(pair)
    if cosine is None or conflicts is None:
        return []
    both = f"{one} and {two}"
    numbers = f"cosine {signed(cosine)}, {percent(conflicts)} sign conflicts"
    at_odds = runs([layer for layer, tally in report.layers.items() if _is_at_odds(tally, pair)])
    if at_odds and len(report.layers) > 1:
        inside = [tally for layer, tally in report.layers.items() if any(a <= layer <= b for a, b in at_odds)]
        cosines = [tally.cosine(pair) or 0.0 for tally in inside]
        shares = [tally.conflicts(pair) or 0.0 for tally in inside]
        told = f"cosine down to {signed(min(cosines))}, up to {percent(max(shares))} sign conflicts"
        return [
            Sentence(
                f"{both} moved the same weights in opposite directions in {layers_words(at_odds)} "
                f"({told}): prefer sign election (ties).",
                "warm",
            )
        ]
    if cosine >= ALIKE:
        return [
            Sentence(
                f"{both} moved the same way ({numbers}): what they learned overlaps, so average their "
                "changes; adding both overshoots.",
                "warm",
            )
        ]
    if cosine <= AGAINST:
        words = f"{both} moved against each other ({numbers}): prefer sign election (ties)."
        return [Sentence(words, "warm")]
    if abs(cosine) < UNRELATED:
        return [
            Sentence(
                f"{both} moved in unrelated directions ({numbers}; 50 % is chance): their changes can be "
                "added (task_arithmetic); an average halves both."
            )
        ]
    return [Sentence(f"{both} share part of their direction ({numbers}).")]


def slerp_words(report: Report) -> list[Sentence]:
    """Say whether slerp between every two models is a straight line; where all are, in one sentence."""
    names = (report.base, *report.models)
    curved, lowest = [], 1.0
    index = pairs(len(report.models)) or [(-1, 0)]
    for one, two in index:
        found = [cosine for f in report.figures if (cosine := f.tally.weight_cosine(one, two)) is not None]
        lowest = min([lowest, *found])
        bent = sum(cosine <= SLERP_IS_LINEAR for cosine in found)
        if bent:
            curved.append(
                Sentence(
                    f"The cosine of the weights of {names[one + 1]} and {names[two + 1]} is "
                    f"{near_one(min(found))} at its lowest: slerp curves in {bent} of {len(found)} tensors."
                )
            )
    if curved:
        return _first_of(curved, "slerp curves between {} further pairs.")
    one, two = index[0]
    which = f"{names[one + 1]} and {names[two + 1]}" if len(index) == 1 else "every two of these models"
    return [
        Sentence(
            f"The cosine of the weights of {which} is above {SLERP_IS_LINEAR} in every tensor "
            f"(lowest {near_one(lowest)}): slerp is linear here."
        )
    ]


def dare_words(name: str, model: int, tally: Tally) -> Sentence | None:
    """Say whether DARE can drop most of a model's changes (arXiv:2311.03099, section 4)."""
    moved = tally.moved[model]
    if not moved:
        return None
    within = max(0.0, tally.within[model] - (tally.count - moved)) / moved
    beyond = tally.beyond[model] / moved
    if within >= DARE_SHARE:
        return Sentence(
            f"DARE can drop 90 to 99 % of the changes of {name}: {share_of(within)} of them are "
            f"within {SMALL}."
        )
    if beyond > DARE_FAILS:
        return Sentence(
            f"DARE at a drop rate of 0.9 or more is likely to fail on {name}: {share_of(beyond)} of its "
            f"changes are larger than {LARGE}. Drop less, or use ties.",
            "warm",
        )
    return Sentence(
        f"DARE at 0.9 or more is a risk on {name}: only {share_of(within)} of its changes are within {SMALL} "
        f"({share_of(beyond)} beyond {LARGE}). Begin with a drop rate of 0.5.",
        "warm",
    )


def parent_words(report: Report) -> list[Sentence]:
    """Say how far a result is from each of its parents, and which it resembles most."""
    found = [(report.whole.distance_to(place), name) for place, name in enumerate(report.models)]
    known = sorted((distance, name) for distance, name in found if distance is not None)
    if not known:
        return []
    if known[0][0] == 0:
        looked = " that was looked at" if report.is_sampled else ""
        told = f"{report.base} equals {known[0][1]} in every weight{looked}: the merge changed nothing."
        return [Sentence(told, "warm")]
    listed = ", ".join(f"{percent(distance)} from {name}" for distance, name in known)
    nearest = f", nearest to {known[0][1]}" if len(known) > 1 and known[0][0] < 0.9 * known[1][0] else ""
    return [Sentence(f"{report.base} is {listed}{nearest}.")]


def norm_words(report: Report) -> Sentence:
    """Say which tensors of a result are longer or shorter than in every parent."""
    odd = []
    for one in report.figures:
        ratio = norm_ratio(one.tally)
        if ratio is not None and abs(ratio - 1) > NORM_SLACK:
            odd.append((abs(ratio - 1), f"{one.name} ({ratio:.2f} times)"))
    if not odd:
        return Sentence(
            f"Every tensor of {report.base} is as long as in one of its parents, or between them "
            f"(within {percent(NORM_SLACK)})."
        )
    named = _listed([words for _, words in sorted(odd, reverse=True)])
    return Sentence(
        f"{_tensors(odd, f'of {report.base} has', f'of {report.base} have')} a norm that no parent has, "
        f"measured by the nearest parent: {named}.",
        "warm",
    )


def norm_ratio(tally: Tally) -> float | None:
    """Return the reference's norm over that of the model that is nearest to it; 1 between two models'."""
    norms = [square**0.5 for square in tally.squares]
    own = tally.base**0.5
    if min(norms) <= own <= max(norms):
        return 1.0
    nearest = max(norms) if own > max(norms) else min(norms)
    return own / nearest if nearest > 0 else None


def runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs of neighbours as first and last: [1, 2, 3, 7] is [(1, 3), (7, 7)]."""
    found: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if found and layer == found[-1][1] + 1:
            found[-1] = (found[-1][0], layer)
        else:
            found.append((layer, layer))
    return found


def layers_words(found: Sequence[tuple[int, int]]) -> str:
    """Name runs of layers: "layer 3", "layers 18 to 24", "layers 1 to 3 and 7"."""
    spelled = [f"{first} to {last}" if last > first else f"{first}" for first, last in found]
    if len(spelled) > _MOST_NAMED + 1:
        count = sum(last - first + 1 for first, last in found)
        return f"{count} layers ({', '.join(spelled[:_MOST_NAMED])}, ...)"
    is_one = len(found) == 1 and found[0][0] == found[0][1]
    joined = spelled[0] if len(spelled) == 1 else f"{', '.join(spelled[:-1])} and {spelled[-1]}"
    return f"layer {joined}" if is_one else f"layers {joined}"


def percent(share: float) -> str:
    """Say a share in two digits that count: "0.024 %", "1.2 %", "52 %"; nothing small becomes zero."""
    value = 100 * share
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if abs(value) >= 0.0001 else f"{value:.0e} %"


def share_of(share: float) -> str:
    """Say a part of a whole: what is not all of it never reads 100 %, what is something never 0 %."""
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{100 * share:.3g} %"


def signed(cosine: float) -> str:
    """Say a cosine with its sign where it has one: "0.82", "-0.21"."""
    return f"{cosine:.2f}".replace("-0.00", "0.00")


def near_one(cosine: float) -> str:
    """Say a cosine near 1 so that it is told from 1: "0.999987"; farther off in two digits."""
    if cosine >= 0.9999995:
        return "over 0.999999"
    return f"{cosine:.6f}" if cosine > 0.999 else f"{cosine:.4f}" if cosine > 0.9 else f"{cosine:.2f}"


def _before(report: Report) -> list[Sentence]:
    told = [moved_words(name, report.base, i, report) for i, name in enumerate(report.models)]
    for_pairs: list[Sentence] = []
    for pair, (one, two) in enumerate(pairs(len(report.models))):
        for_pairs += pair_words(report.models[one], report.models[two], pair, report)
    warm = [one for one in for_pairs if one.look != "calm"]
    calm = [one for one in for_pairs if one.look == "calm"]
    told += _first_of(warm, "{} further pairs call for care too: see their maps.")
    told += _first_of(calm, "{} further pairs are as unrelated, or nearly.")
    told += slerp_words(report)
    dare = [dare_words(name, model, report.whole) for model, name in enumerate(report.models)]
    return told + [one for one in dare if one is not None]


def _first_of(told: Sequence[Sentence], rest: str) -> list[Sentence]:
    """Return a few of many alike, and one sentence on how many more there are."""
    if len(told) <= _MOST_ALIKE:
        return list(told)
    more = rest.format(len(told) - _MOST_ALIKE)
    return [*told[:_MOST_ALIKE], Sentence(more[:1].upper() + more[1:], told[0].look)]


def _after(report: Report) -> list[Sentence]:
    told = [*parent_words(report), norm_words(report)]
    if not any(report.whole.broken) and not report.whole.base_broken:
        looked = f"the {report.read:,} that were looked at" if report.is_sampled else "all of them"
        told.append(Sentence(f"The values of {report.base} are finite: {looked}."))
    return told


def _is_at_odds(tally: Tally, pair: int) -> bool:
    cosine, conflicts = tally.cosine(pair), tally.conflicts(pair)
    return cosine is not None and conflicts is not None and cosine <= AGAINST and conflicts >= AT_ODDS


def _where(model: int, report: Report) -> str:
    """Say which kinds of module a model moved, where it left most alone."""
    kinds = report.kinds
    moved = [kind.rsplit(".", 1)[-1] for kind, tally in kinds.items() if tally.moved[model]]
    if len(moved) == len(kinds):
        return ""
    still: Mapping[str, Tally] = {k: t for k, t in kinds.items() if not t.moved[model]}
    if len(moved) <= len(still):
        return f", only in {_and(moved)}"
    rest = list(dict.fromkeys(kind.rsplit(".", 1)[-1] for kind in still))
    return f"; {_and(rest)} {'is as it was' if len(rest) == 1 else 'are as they were'}"


def _broken(tally: Tally, model: int) -> float:
    return tally.base_broken if model < 0 else tally.broken[model]


def _tensors(found: Sequence[object], is_one: str, are_many: str) -> str:
    return f"1 tensor {is_one}" if len(found) == 1 else f"{len(found):,} tensors {are_many}"


def _and(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} and {unique[-1]}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def cell_words(place: Place) -> str:
    """Name a place: "layer 3, self_attn.q_proj", or "embed_tokens"."""
    return place.kind if place.layer is None else f"layer {place.layer}, {place.kind}"
