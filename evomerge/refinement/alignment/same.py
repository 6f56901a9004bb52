"""How a teacher's tokenizer relates to the student's, by what it does and not by its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from evomerge.checkpoints.tokenizer import tokenizer_content, tokenizer_digest, vocabulary
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """What a student can take over from a teacher without aligning anything.

    Attributes:
        kind: `same`: texts become the same ids. `superset`: so do texts without the tokens that
            only one of the two has. `different`: tokens and vocabularies have to be aligned.
        unshared: Of a `superset`, the ids that are not the same token in both, up to the last
            that belongs to a token of either.
        size: How many tokens the teacher's tokenizer has; its logits from there on are padding. 0
            if the tokenizers are `different`.
        explanation: A sentence for the user.
    """

    kind: Literal["same", "superset", "different"]
    unshared: frozenset[int] = frozenset()
    size: int = 0
    explanation: str

    def to_student(self) -> Tensor:
        """The map of the teacher's ids: each to itself, those that are unshared to `UNMATCHED`."""
        ids = torch.arange(self.size)
        ids[[each for each in self.unshared if each < self.size]] = UNMATCHED
        return ids


def relate(student: Path, teacher: Path) -> Relation:
    """Compare the tokenizers of two model folders.

    Raises:
        ModelError: A tokenizer file is broken.
    """
    ours, theirs = tokenizer_digest(student), tokenizer_digest(teacher)
    ids, their_ids = vocabulary(student), vocabulary(teacher)
    if ours is None or theirs is None or ids is None or their_ids is None:
        which = "student" if ours is None or ids is None else "teacher"
        return _different(f"the vocabulary of the {which} cannot be told from its files")
    if ours == theirs:
        return Relation(
            kind="same",
            size=len(their_ids),
            explanation=f"the tokenizers are the same, with {len(ids)} tokens",
        )
    first, second = tokenizer_content(student), tokenizer_content(teacher)
    if first is None or second is None:
        return _different("the tokenizers are stored in different kinds of files")
    splitting, other = _splitting(first), _splitting(second)
    if parts := [name for name in splitting if splitting[name] != other[name]]:
        return _different(f"the tokenizers differ in {' and '.join(parts)}")
    if moved := [token for token in _ordinary(first) if ids[token] != their_ids[token]]:
        return _different(f"{_tokens(moved)} have other ids in the teacher's tokenizer")
    return _alike(ids, their_ids)


def _alike(ids: Mapping[str, int], their_ids: Mapping[str, int]) -> Relation:
    """The relation of tokenizers that split texts alike, but for added tokens."""
    differing = ids.items() ^ their_ids.items()
    if not differing:
        explanation = f"the tokenizers split texts alike, with {len(ids)} tokens"
        return Relation(kind="same", size=len(their_ids), explanation=explanation)
    tokens = sorted({token for token, _ in differing}, key=lambda t: (ids.get(t, -1), t))
    shared = {number for _, number in ids.items() & their_ids.items()}
    last = max(number for each in (ids, their_ids) for number in each.values())
    return Relation(
        kind="superset",
        unshared=frozenset(range(last + 1)) - shared,
        size=len(their_ids),
        explanation=(
            f"the tokenizers split texts alike, but for {_tokens(tokens)} that are not in both "
            "under one id"
        ),
    )


def _different(why: str) -> Relation:
    return Relation(kind="different", explanation=f"{why}, so tokens have to be aligned")


def _splitting(content: Mapping[str, Any]) -> dict[str, object]:
    """What decides how a text without added tokens is split, by a name for the user."""
    model = {k: v for k, v in content["model"].items() if k not in {"vocab", "merges"}}
    # Before 2024, rules were written as one text.
    rules = (r.split(" ") if isinstance(r, str) else r for r in content["model"].get("merges", []))
    return {
        "normalizer": content.get("normalizer"),
        "pre-tokenizer": content.get("pre_tokenizer"),
        "model settings": model,
        "tokens": _ordinary(content),
        "merge rules": [tuple(rule) for rule in rules],
    }


def _ordinary(content: Mapping[str, Any]) -> dict[str, float]:
    """The tokens of the model itself, with the log-probability that a Unigram model has."""
    tokens = content["model"]["vocab"]
    pairs = tokens if isinstance(tokens, list) else [(token, 0.0) for token in tokens]
    # Some write added tokens into the model's table too.
    added = {entry["content"] for entry in content.get("added_tokens") or []}
    return {token: score for token, score in pairs if token not in added}


def _tokens(tokens: Sequence[str]) -> str:
    """Name a few of many tokens."""
    shown = ", ".join(map(repr, tokens[:_SHOWN]))
    more = ", ..." if len(tokens) > _SHOWN else ""
    return f"{len(tokens)} token{'s' * (len(tokens) != 1)} ({shown}{more})"
