"""Tokens of one text in two tokenizations, grouped where both have a boundary at the same byte.

The idea is that of GOLD (`GOLDTrainer` of the library TRL) and of approximate likelihood matching
(Minixhofer et al. 2025, "Universal Cross-Tokenizer Distillation via Approximate Likelihood
Matching", https://arxiv.org/abs/2503.20083).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from evomerge.errors import CompatibilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[int, int]
"""The first item and the one after the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The smallest groups of tokens that cover the same bytes in two tokenizations.

    Attributes:
        student: The student's tokens of each group.
        teacher: The teacher's tokens of each group.
        ends: For each group the number of bytes of the text up to its end.
    """

    student: tuple[Span, ...]
    teacher: tuple[Span, ...]
    ends: tuple[int, ...]


def token_ends(text: str, spellings: Sequence[bytes], offsets: Sequence[Span]) -> tuple[int, ...]:
    """For each token of a text, the number of its bytes up to the token's end.

    Tokens that spell the text, with or without a space in front, end where their bytes do, within
    characters too. For others, as after a normaliser, offsets tell it; tokens that share a
    character, and a space in front that the text does not have, then end with what follows.

    Args:
        text: The text.
        spellings: The bytes that each token stands for.
        offsets: For each token the first character of the text that it comes from, and the one
            after the last.
    """
    content = text.encode()
    spelled = b"".join(spellings)
    if spelled in {content, b" " + content}:
        in_front = len(spelled) - len(content)
        return tuple(max(0, end - in_front) for end in accumulate(map(len, spellings)))
    before = [0, *accumulate(len(character.encode()) for character in text)]
    ends: list[int] = []
    following, end = len(text), len(text)
    for start, stop in reversed(offsets):
        # Whoever reaches into the next token has no end of its own.
        end = min(end, stop) if stop <= following and ends else end
        ends.append(before[end])
        following = start
    return tuple(reversed(ends))


def group(student: Sequence[int], teacher: Sequence[int]) -> Groups:
    """Group the tokens of a text in two tokenizations: a group ends where both have an end.

    Args:
        student: For each token of the student the number of bytes up to its end, ascending.
        teacher: The same for the teacher.

    Returns:
        Groups that hold every token of both once, in order.

    Raises:
        CompatibilityError: The two do not end at the same byte.
    """
    if not student or not teacher:
        return _one_sided(student, teacher)
    if student[-1] != teacher[-1]:
        raise CompatibilityError(
            f"alignment: the student's tokens cover {student[-1]} bytes and the teacher's "
            f"{teacher[-1]}; give both the same text"
        )
    shared = sorted({*student} & {*teacher})
    return Groups(
        student=_spans(student, shared), teacher=_spans(teacher, shared), ends=tuple(shared)
    )


def _one_sided(student: Sequence[int], teacher: Sequence[int]) -> Groups:
    """One group of all tokens, as a tokenizer that drops spaces has none for some texts."""
    if not student and not teacher:
        return Groups(student=(), teacher=(), ends=())
    return Groups(
        student=((0, len(student)),), teacher=((0, len(teacher)),), ends=(*student, *teacher)[-1:]
    )


def _spans(ends: Sequence[int], shared: Sequence[int]) -> tuple[Span, ...]:
    stops = [0] * (len(shared) + 1)
    for position, end in enumerate(ends):
        stops[bisect_left(shared, end) + 1] = position + 1
    return tuple(pairwise(stops))
