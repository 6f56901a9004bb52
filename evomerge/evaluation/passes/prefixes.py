"""Finds beginnings that contexts share, such as system prompts and solved examples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.evaluation.passes.tokens import Tokens

WORTH_SHARING = 32
"""Tokens that must be saved for each row: a shared beginning costs a pass of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Contexts with the same beginning.

    Attributes:
        length: How many tokens they share; 0 if that is not worth a pass of its own.
        members: Places of the contexts in the list that was looked at.
    """

    length: int
    members: tuple[int, ...]


def shared_prefixes(contexts: Sequence[Tokens]) -> list[Sharing]:
    """Divide contexts into groups, so that as few tokens as possible are read.

    Every context keeps at least its last token, for something has to be read behind a beginning.

    Returns:
        Groups that hold each context once; those that share nothing are one group of length 0.
    """
    order = sorted(range(len(contexts)), key=contexts.__getitem__)
    common = [_common(contexts[a], contexts[b]) for a, b in pairwise(order)]
    groups = [
        Sharing(length=length, members=tuple(sorted(order[start:stop])))
        for start, stop, length in _divide(common)
        if length
    ]
    shared = {member for group in groups for member in group.members}
    alone = tuple(member for member in range(len(contexts)) if member not in shared)
    return [*groups, Sharing(length=0, members=alone)] if alone else groups


def _divide(common: Sequence[int]) -> list[tuple[int, int, int]]:
    """Ranges of sorted contexts and what each range shares, given what neighbours share."""
    found = []
    pending = [(0, len(common) + 1)]
    while pending:
        start, stop = pending.pop()
        if stop - start < 2:
            found.append((start, stop, 0))
            continue
        least = min(common[start : stop - 1])
        cuts = [place + 1 for place in range(start, stop - 1) if common[place] == least]
        parts = list(pairwise([start, *cuts, stop]))
        # Shorter beginnings of longer lists against longer ones of shorter lists; what is left to
        # divide further can only save more.
        apart = sum(_saved(min(common[a : b - 1], default=0), b - a) for a, b in parts)
        if (together := _saved(least, stop - start)) and together >= apart:
            found.append((start, stop, least))
        else:
            pending.extend(parts)
    return found


def _saved(length: int, rows: int) -> int:
    saved = length * (rows - 1)
    return saved if saved >= WORTH_SHARING * rows else 0


def _common(first: Tokens, second: Tokens) -> int:
    most = min(len(first), len(second)) - 1
    return next((place for place in range(most) if first[place] != second[place]), max(most, 0))
