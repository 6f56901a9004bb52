"""Decides which tokens a merged model has and where each model's embeddings go. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import MergeError
from evomerge.recipe.vocabulary import ModelToken, ZeroEmbedding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evomerge.recipe.vocabulary import TokenizerSettings, TokenRule

ABSENT = -1
"""In place of an id: the model has no embedding to give here."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A model that lacks a token gets this embedding of a model that has it."""

    model: str
    id: int


@dataclass(frozen=True, slots=True)
class Average:
    """A model that lacks a token gets the mean of the models that have it."""


@dataclass(frozen=True, slots=True)
class Zero:
    """A model that lacks a token gets zeros."""


Fill = Copy | Average | Zero


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyPlan:
    """The vocabulary of a merged model, and how every model is brought to it.

    Attributes:
        tokenizer: The model whose tokenizer the result's is made from.
        tokens: Its tokens by id; None where an embedding belongs to no token.
        ids: For each model, the id it has for each of `tokens`, or `ABSENT`.
        fills: By new id: the embedding that models get for which `ids` says `ABSENT`. Every id
            with a token that some model lacks has one; those without a token get the mean of all
            others (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language
            Models").
        added: Tokens of the result that its tokenizer's model lacks.
        dropped: Tokens of the models that the result lacks.
    """

    tokenizer: str
    tokens: tuple[str | None, ...]
    ids: Mapping[str, tuple[int, ...]]
    fills: Mapping[int, Fill]
    added: tuple[str, ...]
    dropped: tuple[str, ...]

    def vocabulary(self) -> dict[str, int]:
        """Return the result's tokens and their ids."""
        return {token: new for new, token in enumerate(self.tokens) if token is not None}


def plan_vocabulary(
    vocabularies: Mapping[str, Mapping[str, int]], base: str, settings: TokenizerSettings
) -> VocabularyPlan:
    """Plan the vocabulary of a merged model.

    The tokens of the base, or of the model that `settings.source` names, keep their ids, except
    in an intersection, which has no holes. Others follow model by model, in the order of their
    ids. What a model lacks is filled by the first rule that applies: what `settings.tokens` says;
    the embedding of the only model that has the token; that of the base; the mean of the models
    that have it; zeros.

    Args:
        vocabularies: The tokens of each model and their ids; only tokens that have an embedding.
        base: Which of them is the base.
        settings: What the recipe asks for.

    Raises:
        MergeError: A token is to get an embedding that the named model does not have, or no token
            is left.
    """
    tokenizer = base if settings.source in {"base", "union", "intersection"} else settings.source
    tokens: list[str | None] = list(_kept(vocabularies, vocabularies[tokenizer], settings))
    known = {token for token in tokens if token is not None}
    for token in _wished(vocabularies, settings):
        if token not in known:
            tokens.append(token)
            known.add(token)
    if not known:
        raise MergeError(
            "tokenizer.source: the models have no token in common; write union or base"
        )
    everything = {token: None for each in vocabularies.values() for token in each}
    tokens += [None] * (-len(tokens) % (settings.pad_to_multiple_of or 1))
    ids = {
        model: tuple(_id(vocabulary, token, settings) for token in tokens)
        for model, vocabulary in vocabularies.items()
    }
    return VocabularyPlan(
        tokenizer=tokenizer,
        tokens=tuple(tokens),
        ids=ids,
        fills=dict(_fills(vocabularies, base, settings, tokens)),
        added=tuple(t for t in tokens if t is not None and t not in vocabularies[tokenizer]),
        dropped=tuple(token for token in everything if token not in known),
    )


def _kept(
    vocabularies: Mapping[str, Mapping[str, int]],
    vocabulary: Mapping[str, int],
    settings: TokenizerSettings,
) -> Iterator[str | None]:
    """The tokens that stay of the model whose tokenizer is taken, in the order of their ids."""
    if settings.source == "intersection":
        others = vocabularies.values()
        for token in _by_id(vocabulary):
            if token in settings.tokens or all(token in other for other in others):
                yield token
        return
    tokens = {number: token for token, number in vocabulary.items()}
    yield from (tokens.get(number) for number in range(max(tokens, default=-1) + 1))


def _wished(
    vocabularies: Mapping[str, Mapping[str, int]], settings: TokenizerSettings
) -> Iterator[str]:
    """The tokens that the result has besides those that stay, in order."""
    if settings.source == "union":
        for vocabulary in vocabularies.values():
            yield from _by_id(vocabulary)
    # A recipe's digest does not tell in which order they were written.
    yield from sorted(settings.tokens)


def _by_id(vocabulary: Mapping[str, int]) -> list[str]:
    return sorted(vocabulary, key=lambda token: (vocabulary[token], token))


def _id(vocabulary: Mapping[str, int], token: str | None, settings: TokenizerSettings) -> int:
    if token is None:
        return ABSENT
    rule = settings.tokens.get(token)
    return ABSENT if rule and rule.force else vocabulary.get(token, ABSENT)


def _fills(
    vocabularies: Mapping[str, Mapping[str, int]],
    base: str,
    settings: TokenizerSettings,
    tokens: list[str | None],
) -> Iterator[tuple[int, Fill]]:
    for new, token in enumerate(tokens):
        if token is None:
            continue
        rule = settings.tokens.get(token)
        having = [model for model, known in vocabularies.items() if token in known]
        if len(having) == len(vocabularies) and not (rule and rule.force):
            continue
        if rule and rule.source is not None:
            yield new, _asked_for(token, rule, vocabularies)
        elif len(having) == 1 or base in having:
            donor = base if base in having else having[0]
            yield new, Copy(donor, vocabularies[donor][token])
        else:
            yield new, Average() if having else Zero()


def _asked_for(token: str, rule: TokenRule, vocabularies: Mapping[str, Mapping[str, int]]) -> Fill:
    """The embedding that a recipe names for a token."""
    source = rule.source
    if source is None or isinstance(source, ZeroEmbedding):
        return Zero()
    wanted = token
    if isinstance(source, ModelToken):
        if source.token_id is not None:
            return Copy(source.model, source.token_id)
        wanted, source = source.token or "", source.model
    if wanted not in vocabularies[source]:
        raise MergeError(
            f"tokenizer.tokens.{token!r}: {source} has no token {wanted!r}; name another model "
            "or token, or write kind: zero"
        )
    return Copy(source, vocabularies[source][wanted])
