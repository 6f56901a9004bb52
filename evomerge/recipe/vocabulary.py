"""What a merge recipe says about the vocabulary of the result: tokens, embeddings, template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from evomerge.recipe.schema import Flag, Natural, Positive, Strict, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

KINDS = {"base", "union", "intersection"}
"""What the source of a vocabulary may be called if it is not a model."""

BUILT_IN_TEMPLATES = ("alpaca", "chatml", "exaone", "llama3", "mistral")


class ModelToken(Strict):
    """The embedding of a token of one model, given by its text or by its id.

    Attributes:
        kind: Says that this is the embedding of a model's token.
        model: The model, as the recipe names it.
        token: The token's text in that model's vocabulary.
        token_id: Its id in that model, instead of its text.
    """

    kind: Literal["model_token"]
    model: Text
    token: Text | None = None
    token_id: Natural | None = None

    @model_validator(mode="after")
    def _is_one_token(self) -> Self:
        if (self.token is None) == (self.token_id is None):
            found = "none of them" if self.token is None else "both"
            raise ValueError(f"give exactly one of token, token_id; found {found}")
        return self


class ZeroEmbedding(Strict):
    """An embedding of zeros.

    Attributes:
        kind: Says that this is an embedding of zeros.
    """

    kind: Literal["zero"]


def _kind_of_embedding(value: object) -> str:
    if isinstance(value, (str, type(None))):
        return "model"
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "zero" if kind == "zero" else "model_token"


EmbeddingSource = Annotated[
    Annotated[Text | None, Tag("model")]
    | Annotated[ModelToken, Tag("model_token")]
    | Annotated[ZeroEmbedding, Tag("zero")],
    Discriminator(_kind_of_embedding),
]
"""Where an embedding comes from: a model that has the token, another token, or zeros."""


class TokenRule(Strict):
    """What embedding a token gets in models that lack it.

    Attributes:
        source: Where the embedding comes from; the usual order decides when absent.
        force: Whether models that have the token get this embedding too.
    """

    source: EmbeddingSource = None
    force: Flag = False

    @model_validator(mode="after")
    def _force_has_a_source(self) -> Self:
        if self.force and self.source is None:
            raise ValueError("force: needs a source; say which embedding all models get")
        return self

    def renamed(self, rename: Callable[[str], str]) -> TokenRule:
        """The same with another name for the model."""
        if isinstance(self.source, ModelToken):
            source = self.source.model_copy(update={"model": rename(self.source.model)})
            return self.model_copy(update={"source": source})
        if isinstance(self.source, str):
            return self.model_copy(update={"source": rename(self.source)})
        return self

    @property
    def model(self) -> str | None:
        """The model whose embedding it names, if any."""
        return self.source.model if isinstance(self.source, ModelToken) else _text(self.source)


def _text(source: str | ZeroEmbedding | None) -> str | None:
    return source if isinstance(source, str) else None


class TokenizerSettings(Strict):
    """How models with different vocabularies are merged.

    Attributes:
        source: Which tokens the result has: those of the base, of any model (union), of every
            model (intersection), or of the model named here.
        tokens: Tokens that the result has in any case, and where their embeddings come from.
        pad_to_multiple_of: The number of embeddings is rounded up to a multiple of this.
    """

    source: Text = "union"
    tokens: Mapping[Text, TokenRule] = Field(default_factory=dict)
    pad_to_multiple_of: Annotated[Positive, Field(le=1_000_000)] | None = None

    def renamed(self, rename: Callable[[str], str]) -> TokenizerSettings:
        """The same with other names for the models."""
        named = self.source not in KINDS
        return self.model_copy(
            update={
                "source": rename(self.source) if named else self.source,
                "tokens": {token: rule.renamed(rename) for token, rule in self.tokens.items()},
            }
        )

    def model_names(self) -> Iterator[tuple[str, str]]:
        """Every model that is named, after the key that names it."""
        if self.source not in KINDS:
            yield "source", self.source
        for token, rule in self.tokens.items():
            if rule.model is not None:
                yield f"tokens.{token!r}.source", rule.model


def _known_template(template: str) -> str:
    # A literal template is told from a misspelt name by its braces.
    if template in {"auto", *BUILT_IN_TEMPLATES} or "{{" in template or "{%" in template:
        return template
    raise ValueError(
        f"expected auto, {', '.join(BUILT_IN_TEMPLATES)} or a Jinja template, "
        f"found {template[:60]!r}"
    )


ChatTemplate = Annotated[Text, AfterValidator(_known_template)]
"""`auto` (the most common among the models), a built-in template's name, or Jinja itself."""
