"""One vocabulary for models that have several: which tokens it has, and where every row comes from.

Works on tokens and numbers of rows; reads no weight. A row is a model's own where it has the token;
where not, it is the mean over models that lend theirs, or zero where nobody does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lab.core.errors import BadInput, UnknownName
from lab.merge.ingredients import EMBEDDINGS, Ingredient
from lab.merge.tokens import BASE, UNION, RowOfToken, TokenizerSetting, TokenRule, ZeroRow
from lab.models.vocabulary import Vocabulary, read_vocabulary

NO_ROW = -1
Rows = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Relayout:
    """Where each row of a re-laid tensor comes from.

    Attributes:
        own: by model, the number of its row for each row of the result; -1 where it has none. Shape (rows,).
        lent: by model, the row that it lends to those that have none; the mean counts. Shape (rows,).
        rows: how many rows there are, padding not counted.
        padding: rows after them, each of which is the mean of a model's others.
    """

    own: Mapping[str, Rows]
    lent: Mapping[str, Rows]
    rows: int
    padding: int = 0

    @cached_property
    def lenders(self) -> tuple[str, ...]:
        """The models that lend a row to one that has none."""
        lacks = np.zeros(self.rows, bool)
        for own in self.own.values():
            lacks |= own < 0
        return tuple(ref for ref, rows in self.lent.items() if bool((lacks & (rows >= 0)).any()))

    @property
    def total(self) -> int:
        """How many rows a re-laid tensor has."""
        return self.rows + self.padding


@dataclass(frozen=True)
class NewToken:
    """A token that the result's tokenizer has and its source lacks.

    Attributes:
        text, number: the token.
        model: whose it was; "" where the recipe alone names it.
        flags: of a token that is matched in the text before the algorithm runs; None for a normal one.
    """

    text: str
    number: int
    model: str
    flags: Mapping[str, bool] | None


@dataclass(frozen=True, eq=False)
class VocabularyPlan:
    """The result's vocabulary.

    Attributes:
        vocabulary: its tokens; the files are those of the tokenizer that it starts from.
        donor: the model whose tokenizer that is.
        new: what was added to it.
        relayout: where every row comes from.
        tally: by model, how many tokens it had, kept, gave up, and was lent.
        notes: what people should know, in sentences.
        models: every model that may lend rows, by reference.
    """

    vocabulary: Vocabulary
    donor: Ingredient
    new: tuple[NewToken, ...]
    relayout: Relayout
    tally: tuple["Tally", ...]
    notes: tuple[str, ...]
    models: Mapping[str, Ingredient]


@dataclass(frozen=True)
class Tally:
    """What becomes of one model's vocabulary.

    Attributes:
        model: its name.
        tokens: how many it has.
        kept: how many of them the result has.
        dropped: how many it has not.
        lent: rows of the result that this model lacked, and took from one other.
        averaged: rows that it lacked, and took as the mean of several.
        zero: rows that nobody had.
    """

    model: str
    tokens: int
    kept: int
    dropped: int
    lent: int
    averaged: int
    zero: int


def plan_vocabulary(
    setting: TokenizerSetting,
    models: Mapping[str, Ingredient],
    donor: Ingredient,
    base: str | None,
    extras: Collection[str] = (),
) -> VocabularyPlan:
    """Work out the result's vocabulary.

    Args:
        setting: what the recipe says.
        models: every model of the merge, by the recipe's reference, base first.
        donor: the model whose tokenizer counts as the base's.
        base: the base of the merge, where it has one; its rows are lent before others.
        extras: those of the models that only the tokenizer's setting names.

    Raises:
        BadInput: a model has no tokenizer file, or the recipe names a model or token that isn't there.
    """
    vocabularies = {ref: _vocabulary_of(model) for ref, model in models.items()}
    source = _source(setting, models, donor)
    start = vocabularies[source.ref]
    others = {ref: words for ref, words in vocabularies.items() if ref not in (source.ref, *extras)}
    new = _new_tokens(setting, start, others if setting.source == UNION else {})
    ids = {**start.ids, **{token.text: token.number for token in new}}
    merged = Vocabulary(
        start.folder,
        start.file,
        start.kind,
        ids,
        {**start.added, **{token.text: token.flags for token in new if token.flags is not None}},
    )
    relayout = _Rows(merged, vocabularies, models, base).laid_out(setting, extras)
    merging = {ref: words for ref, words in vocabularies.items() if ref not in extras}
    tally, notes = _counted(relayout, merging, merged, models)
    return VocabularyPlan(merged, source, new, relayout, tally, notes, models)


def rows_of(model: Ingredient) -> int:
    """Return how many rows a model's embedding has."""
    found = next((model.tensors[name] for name in EMBEDDINGS if name in model.tensors), None)
    return found.shape[0] if found else model.config.vocab


def has_vocabulary(tensor: str) -> bool:
    """Whether a tensor has a row for each token."""
    return tensor in EMBEDDINGS or tensor.startswith("lm_head.")


class _Rows:
    """Finds out where each row of the result comes from."""

    def __init__(
        self,
        merged: Vocabulary,
        vocabularies: Mapping[str, Vocabulary],
        models: Mapping[str, Ingredient],
        base: str | None,
    ) -> None:
        self._merged, self._vocabularies, self._models, self._base = merged, vocabularies, models, base
        self.rows = merged.rows
        numbers = np.fromiter(merged.ids.values(), np.int64, len(merged.ids))
        self._own = {ref: self._rows_in(ref, numbers) for ref in models}

    def laid_out(self, setting: TokenizerSetting, extras: Collection[str]) -> Relayout:
        """Return the layout: own rows first, then what the recipe says, then what others lend."""
        lent = self._lent(extras)
        for text, rule in setting.tokens.items():
            row = self._merged.ids[text]
            if rule.source is not None:
                for ref in lent:
                    lent[ref][row] = NO_ROW
                self._lend(lent, row, rule, text)
            if rule.force:
                for own in self._own.values():
                    own[row] = NO_ROW
        multiple = setting.pad_to_multiple_of or 1
        return Relayout(self._own, lent, self.rows, -self.rows % multiple)

    def _rows_in(self, ref: str, numbers: NDArray[np.int64]) -> Rows:
        """Return the number of a model's row for every row of the result."""
        known, most = self._vocabularies[ref].ids, rows_of(self._models[ref])
        theirs = np.fromiter(
            (known.get(text, NO_ROW) for text in self._merged.ids), np.int32, len(self._merged.ids)
        )
        theirs[theirs >= most] = NO_ROW  # the tokenizer has it, the embedding doesn't
        own = np.full(self.rows, NO_ROW, np.int32)
        own[numbers] = theirs
        return own

    def _lent(self, extras: Collection[str]) -> dict[str, Rows]:
        """Let the base lend what it has, and all others of the merge what it lacks."""
        lent = {ref: own.copy() for ref, own in self._own.items()}
        for ref in extras:
            lent[ref][:] = NO_ROW
        if self._base is not None:
            has_base = self._own[self._base] >= 0
            for ref, rows in lent.items():
                if ref != self._base:
                    rows[has_base] = NO_ROW
        return lent

    def _lend(self, lent: Mapping[str, Rows], row: int, rule: TokenRule, text: str) -> None:
        path = f"tokenizer.tokens.{text}.source"
        if isinstance(rule.source, ZeroRow) or rule.source is None:
            return
        if isinstance(rule.source, RowOfToken):
            ref, token, number = rule.source.model, rule.source.token, rule.source.token_id
            path += ".model"
        else:
            ref, token, number = rule.source, text, None
        if ref not in self._models:
            raise UnknownName.among("model of this merge", ref, self._models).at(path)
        if number is None:
            number = self._vocabularies[ref].ids.get(str(token), NO_ROW)
        if not 0 <= number < rows_of(self._models[ref]):
            what = f"token {token!r}" if token is not None else f"row {number}"
            raise BadInput(
                f"{ref} has no {what}.",
                "A row is taken from a model that has it.",
                "Name another model or token.",
                field=path,
            )
        lent[ref][row] = number


def _vocabulary_of(model: Ingredient) -> Vocabulary:
    return model.vocabulary or read_vocabulary(model.tokenizer_folder or model.folder)


def _source(setting: TokenizerSetting, models: Mapping[str, Ingredient], donor: Ingredient) -> Ingredient:
    """Return the model whose tokenizer the result's starts from."""
    if setting.source in (UNION, BASE):
        return donor
    if setting.source not in models:
        raise UnknownName.among("model of this merge", setting.source, models).at("tokenizer.source")
    return models[setting.source]


def _new_tokens(
    setting: TokenizerSetting, start: Vocabulary, others: Mapping[str, Vocabulary]
) -> tuple[NewToken, ...]:
    """Return what a vocabulary lacks, numbered after it: normal tokens, added ones, the recipe's own."""
    found: dict[str, tuple[str, Mapping[str, bool] | None]] = {}
    for is_added in (False, True):
        for ref, words in others.items():
            for text in sorted(words.ids, key=words.ids.__getitem__):
                if (text in words.added) == is_added and text not in start.ids:
                    found.setdefault(text, (ref, words.added.get(text)))
    for text in setting.tokens:
        if text not in start.ids:
            found.setdefault(text, ("", {"special": False, "normalized": False}))
    return tuple(
        NewToken(text, number, ref, flags)
        for number, (text, (ref, flags)) in enumerate(found.items(), start.rows)
    )


def _counted(
    layout: Relayout,
    vocabularies: Mapping[str, Vocabulary],
    merged: Vocabulary,
    models: Mapping[str, Ingredient],
) -> tuple[tuple[Tally, ...], tuple[str, ...]]:
    named = np.zeros(layout.rows, bool)
    named[list(merged.ids.values())] = True
    lenders = sum((rows >= 0).astype(np.int64) for rows in layout.lent.values())
    tallies = []
    for ref, words in vocabularies.items():
        lacks = (layout.own[ref] < 0) & named
        kept = sum(text in merged.ids for text in words.ids)
        counts = [int(np.count_nonzero(lacks & found)) for found in (lenders == 1, lenders > 1, lenders == 0)]
        tallies.append(Tally(ref, len(words.ids), kept, len(words.ids) - kept, *counts))
    return tuple(tallies), tuple(_notes(layout, tallies, vocabularies, models))


def _notes(
    layout: Relayout,
    tallies: Sequence[Tally],
    vocabularies: Mapping[str, Vocabulary],
    models: Mapping[str, Ingredient],
) -> list[str]:
    notes = []
    for ref, words in vocabularies.items():
        rows = rows_of(models[ref])
        if rows > words.rows:
            notes.append(f"Rows of {ref} that belong to no token and are left out: {rows - words.rows}.")
        if words.rows > rows:
            notes.append(f"Tokens of {ref} without a row in its embedding: {words.rows - rows}.")
    if zero := max((tally.zero for tally in tallies), default=0):
        notes.append(f"Tokens whose row is zero, because no model has one or the recipe says so: {zero}.")
    if layout.padding:
        notes.append(f"Rows of padding, each the mean of the others: {layout.padding}.")
    return notes
