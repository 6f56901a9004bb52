"""What a student is told at the tokens that it is to predict, from a sequence to a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.refinement.kept import concatenate
from evomerge.refinement.predictions import TopK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a teacher, or several that became one, tells of the supervised tokens of a student.

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


def in_full(rows: TopK) -> Told:
    """What a teacher tells whose rows are one for each token of the student."""
    return Told(
        rows=rows,
        covered=torch.ones_like(rows.nll, dtype=torch.bool),
        before=torch.zeros_like(rows.nll, dtype=torch.int64),
    )


def join(told: Sequence[Told]) -> Told:
    """What is told of sequences that are read one behind the other; at least one."""
    return Told(
        rows=concatenate([each.rows for each in told]),
        covered=torch.cat([each.covered for each in told]),
        before=torch.cat([each.before for each in told]),
    )


def as_tensors(told: Told) -> dict[str, Tensor]:
    """It as named tensors, which reach the student's device by themselves."""
    rows = told.rows
    found = {
        "teacher_ids": rows.ids,
        "teacher_log_probs": rows.log_probs,
        "teacher_tail": rows.tail,
        "teacher_nll": rows.nll,
        "teacher_mean": rows.mean,
        "teacher_deviation": rows.deviation,
        "teacher_covered": told.covered,
        "teacher_before": told.before,
    }
    return {name: each for name, each in found.items() if each is not None}


def from_tensors(named: Mapping[str, Tensor], vocabulary: int) -> Told:
    """What `as_tensors` took apart.

    Args:
        named: The tensors, and perhaps others.
        vocabulary: The number of tokens that rows may have.
    """
    rows = TopK(
        ids=named["teacher_ids"],
        log_probs=named["teacher_log_probs"],
        tail=named["teacher_tail"],
        nll=named["teacher_nll"],
        vocabulary=vocabulary,
        mean=named.get("teacher_mean"),
        deviation=named.get("teacher_deviation"),
    )
    return Told(rows=rows, covered=named["teacher_covered"], before=named["teacher_before"])
