"""What a merge did to the vocabulary of its base, for a person to read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.merging.vocabulary.plan import Average, Copy, Fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.merging.vocabulary.plan import VocabularyPlan

EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyChange:
    """A group of tokens, or of embeddings without one, that shared a fate.

    Attributes:
        what: Their fate, in a few words.
        count: How many they are.
        examples: The first few tokens.
    """

    what: str
    count: int
    examples: tuple[str, ...]


def list_changes(plan: VocabularyPlan) -> list[VocabularyChange]:
    """Return what happened to tokens, most of all to those that not all models have."""
    groups: dict[str, list[str]] = defaultdict(list)
    for new, fill in plan.fills.items():
        groups[_describe(fill)].append(plan.tokens[new] or "")
    changes = [
        _change("tokens", list(plan.vocabulary())),
        _change(f"added to those of {plan.tokenizer}", plan.added),
        _change("dropped", plan.dropped),
        *(_change(what, groups[what]) for what in sorted(groups)),
        VocabularyChange(
            what="without a token: mean of all", count=plan.tokens.count(None), examples=()
        ),
    ]
    return [change for change in changes if change.count]


def _describe(fill: Fill) -> str:
    if isinstance(fill, Copy):
        return f"where missing: from {fill.model}"
    return "where missing: averaged" if isinstance(fill, Average) else "where missing: zeros"


def _change(what: str, tokens: Sequence[str]) -> VocabularyChange:
    return VocabularyChange(what=what, count=len(tokens), examples=tuple(tokens[:EXAMPLES]))
