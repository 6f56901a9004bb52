"""An example as two models read it: which of their supervised tokens are the same bytes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.refinement.alignment.spans import Span, group

if TYPE_CHECKING:
    from collections import abc

    from evomerge.refinement.alignment.placed import Placed


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
