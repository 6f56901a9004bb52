"""A text as two models read it: which of their supervised tokens are the same bytes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from evomerge.errors import RecipeError
from evomerge.live_model import load_tokenizer
from evomerge.refinement.alignment.spans import Span, group, token_ends
from evomerge.refinement.alignment.vocabulary import Vocabulary, read_vocabulary
from evomerge.sensitivity.calibration import Prompted

if TYPE_CHECKING:
    from collections import abc
    from pathlib import Path

    from evomerge.refinement.texts.examples import Example
    from evomerge.refinement.texts.sequences import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A tokenizer of transformers, and what its tokens stand for."""

    tokenizer: Any
    vocabulary: Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """The tokens of a text, without special ones in front of it, up to where it was cut off.

    Attributes:
        supervised: The tokens that are to be predicted.
        ends: For each token the number of bytes of the text up to its end; tokens behind the text
            count as one byte each.
        rows: For each its number among the supervised ones, or None.
    """

    supervised: tuple[int, ...]
    ends: tuple[int, ...]
    rows: tuple[int | None, ...]

    @property
    def size(self) -> int:
        """How many bytes the supervised tokens have."""
        first = next((place for place, row in enumerate(self.rows) if row is not None), None)
        if first is None:
            return 0
        return self.ends[-1] - (self.ends[first - 1] if first else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """Supervised tokens of both that cover the same bytes.

    Attributes:
        student: The numbers of the student's, the first and the one behind the last.
        teacher: Those of the teacher's.
        size: How many bytes they are.
    """

    student: Span
    teacher: Span
    size: int

    @property
    def is_alone(self) -> bool:
        """Whether it is one token of each."""
        return all(stop - start == 1 for start, stop in (self.student, self.teacher))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A text in two tokenizations.

    Attributes:
        student: As the student reads it.
        teacher: As the teacher does.
        groups: The smallest groups that are supervised in both.
    """

    student: Placed
    teacher: Placed
    groups: tuple[RowGroup, ...]

    def lone_partners(self) -> tuple[int | None, ...]:
        """For each of the student's the teacher's one that covers the same bytes, if any."""
        alone = {each.student[0]: each.teacher[0] for each in self.groups if each.is_alone}
        return tuple(alone.get(row) for row in range(len(self.student.supervised)))

    def last_partners(self) -> tuple[int | None, ...]:
        """For the student's last token of each group the teacher's last one."""
        last = {each.student[1] - 1: each.teacher[1] - 1 for each in self.groups}
        return tuple(last.get(row) for row in range(len(self.student.supervised)))


def open_reader(folder: Path) -> Reader:
    """Load the tokenizer of a model folder.

    Raises:
        ModelError: It cannot be loaded, or does not tell what its tokens stand for.
    """
    return Reader(tokenizer=load_tokenizer(folder), vocabulary=read_vocabulary(folder))


def plain_text(example: Example) -> str:
    """The text that both models read.

    Raises:
        RecipeError: It is a chat, which each model's template writes in another way.
    """
    match example.content:
        case str(text):
            return text
        case Prompted(prompt, completion):
            return prompt + completion
    raise RecipeError(
        f"{example.where}: a chat; chats are not aligned to teachers with another tokenizer; give "
        "'prompt' and 'completion' instead, or teachers with the student's tokenizer"
    )


def place(reader: Reader, text: str, read: Sequence | None) -> Placed:
    """Say where the tokens of a sequence are in the text that it was made of.

    Args:
        reader: The tokenizer that made it.
        text: The text.
        read: The sequence; None if it was dropped, since nothing of it is to be predicted.
    """
    if read is None:
        return Placed(supervised=(), ends=(), rows=())
    encoded = reader.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, is_special = encoded["input_ids"], encoded["special_tokens_mask"]
    front = len(list(takewhile(bool, is_special)))
    behind = len(list(takewhile(bool, reversed(is_special[front:]))))
    stop = len(ids) - behind
    spellings = [reader.vocabulary.spellings[number] or b"" for number in ids[front:stop]]
    ends = token_ends(text, spellings, encoded["offset_mapping"][front:stop])
    size = len(text.encode())
    ends = (*ends, *range(size + 1, size + 1 + behind))
    flags = read.supervised[front:].tolist()
    numbers = (read.supervised.cumsum(0) - 1)[front:].tolist()
    rows = tuple(number if flag else None for number, flag in zip(numbers, flags, strict=True))
    return Placed(
        supervised=tuple(read.ids[read.supervised].tolist()), ends=ends[: len(rows)], rows=rows
    )


def pair(student: Placed, teacher: Placed) -> Pair:
    """Group the supervised tokens of a text in two tokenizations."""
    last = max({*student.ends} & {*teacher.ends}, default=-1)
    # What one of the two was cut off before is in no group.
    kept = (each.ends[: bisect_right(each.ends, last)] for each in (student, teacher))
    found = group(*kept)
    groups, before = [], 0
    for mine, own, end in zip(found.student, found.teacher, found.ends, strict=True):
        ours, theirs = _span(student.rows[slice(*mine)]), _span(teacher.rows[slice(*own)])
        if ours and theirs:
            groups.append(RowGroup(student=ours, teacher=theirs, size=end - before))
        before = end
    return Pair(student=student, teacher=teacher, groups=tuple(groups))


def _span(rows: abc.Sequence[int | None]) -> Span | None:
    """The rows of the tokens of a group, if all of them have one."""
    known = [row for row in rows if row is not None]
    return (known[0], known[-1] + 1) if known and len(known) == len(rows) else None
