"""What a recipe says of the result's tokenizer: where it comes from, and the rows of single tokens.

Opens no file; what it means for rows of the embedding is `vocabulary.py`'s.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from lab.core.spec import ModelRef, Spec

UNION, BASE = "union", "base"
MOST_PADDING = 65_536


class ZeroRow(Spec):
    """A row of zeros."""

    kind: Literal["zero"] = "zero"


class RowOfToken(Spec):
    """The row that a token has in one model, by its text or its number."""

    kind: Literal["model_token"] = "model_token"
    model: ModelRef
    token: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    token_id: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("A row is that of a token or of a token_id: give one of the two.")
        return self


def _form(value: Any) -> str:
    if isinstance(value, str):
        return "model"
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "zero" if kind == "zero" else "model_token"


class TokenRule(Spec):
    """Where a token's row comes from in models that lack it.

    Attributes:
        source: a model that has the token, a row of zeros, or the row of another token.
        force: whether models that have the token take that row too.
    """

    source: (
        Annotated[
            Annotated[ModelRef, Tag("model")]
            | Annotated[ZeroRow, Tag("zero")]
            | Annotated[RowOfToken, Tag("model_token")],
            Discriminator(_form),
        ]
        | None
    ) = None
    force: bool = False

    @model_validator(mode="after")
    def _force_has_a_source(self) -> Self:
        if self.force and self.source is None:
            raise ValueError("force needs a source: the row that every model takes.")
        return self


class TokenizerSetting(Spec):
    """The result's tokenizer.

    Attributes:
        source: "union" of all models' vocabularies, "base" for the base's, or a model.
        tokens: rules for single tokens; one that no vocabulary has is added.
        pad_to_multiple_of: rows are added up to a multiple of this.
    """

    source: ModelRef = UNION
    tokens: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=1000)], TokenRule], Field(max_length=4096)
    ] = Field(default_factory=dict)
    pad_to_multiple_of: Annotated[int, Field(ge=1, le=MOST_PADDING)] | None = None

    def models(self) -> tuple[str, ...]:
        """Return the models that it names, in order."""
        named = [self.source] if self.source not in (UNION, BASE) else []
        for rule in self.tokens.values():
            if isinstance(rule.source, str):
                named.append(rule.source)
            elif isinstance(rule.source, RowOfToken):
                named.append(rule.source.model)
        return tuple(dict.fromkeys(named))
