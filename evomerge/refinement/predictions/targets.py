"""What a teacher predicts at the tokens that a student is to predict, in a sequence or a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.refinement.predictions.kept import concatenate
from evomerge.refinement.predictions.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    TargetsOf = Callable[[int], "Targets"]
    """The targets of the sequence of an example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What a teacher, or several that became one, predicts at a student's supervised tokens.

    Attributes:
        rows: A row for each of them. Its `nll` is what the teacher finds of the text up to the end
            of this token, from where the row before ended: 0 within a group.
        covered: Which rows are the teacher's; shape `(n,)`, bool.
        before: How many tokens before one are of the same group of tokens, at the last token of a
            group that has a row; 0 otherwise. Shape `(n,)`, int64.
    """

    rows: TopK
    covered: Tensor
    before: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetVocabulary:
    """The vocabulary of a teacher's targets.

    Attributes:
        size: How many tokens it has.
        to_student: The student's id for each of them, or `UNMATCHED`; shape `(size,)`.
        aligned: Whether the rows of the teacher, or of one of several, are of another tokenizer
            than the student's, or were.
    """

    size: int
    to_student: Tensor
    aligned: bool = False


def row_by_row(rows: TopK) -> Targets:
    """The targets of a teacher that has a row for each token of the student.

    A row is not covered where the student has none of the tokens that are kept.
    """
    return Targets(
        rows=rows,
        covered=rows.log_probs.isfinite().any(dim=1),
        before=torch.zeros_like(rows.nll, dtype=torch.int64),
    )


def join(targets: Sequence[Targets]) -> Targets:
    """The targets of sequences that are read one behind the other; at least one."""
    return Targets(
        rows=concatenate([each.rows for each in targets]),
        covered=torch.cat([each.covered for each in targets]),
        before=torch.cat([each.before for each in targets]),
    )


def as_tensors(targets: Targets, teacher: int = 0) -> dict[str, Tensor]:
    """Targets as named tensors, which reach the student's device by themselves.

    Args:
        targets: The targets.
        teacher: The number of the teacher that they are of.
    """
    rows = targets.rows
    found = {
        "ids": rows.ids,
        "log_probs": rows.log_probs,
        "tail": rows.tail,
        "nll": rows.nll,
        "mean": rows.mean,
        "deviation": rows.deviation,
        "covered": targets.covered,
        "before": targets.before,
    }
    return {_name(name, teacher): each for name, each in found.items() if each is not None}


def from_tensors(named: Mapping[str, Tensor], vocabulary: int, teacher: int = 0) -> Targets:
    """What `as_tensors` took apart.

    Args:
        named: The tensors, and perhaps others.
        vocabulary: The number of tokens that rows may have.
        teacher: The number of the teacher.
    """
    rows = TopK(
        ids=named[_name("ids", teacher)],
        log_probs=named[_name("log_probs", teacher)],
        tail=named[_name("tail", teacher)],
        nll=named[_name("nll", teacher)],
        vocabulary=vocabulary,
        mean=named.get(_name("mean", teacher)),
        deviation=named.get(_name("deviation", teacher)),
    )
    return Targets(
        rows=rows,
        covered=named[_name("covered", teacher)],
        before=named[_name("before", teacher)],
    )


def _name(what: str, teacher: int) -> str:
    return f"teacher_{teacher}_{what}"
