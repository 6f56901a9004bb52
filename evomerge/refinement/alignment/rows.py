"""What a teacher predicts, in the student's vocabulary at the student's positions.

FuseLLM: Wan et al. 2024, "Knowledge Fusion of Large Language Models",
https://arxiv.org/abs/2401.10491. Here a row belongs to the token that it predicts, and it is that
token which has to have a partner. FuseLLM asks that of the token before, and where there is none
its released code teaches to repeat that one; here such a row teaches the token that follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.predictions.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedRows:
    """What a teacher predicts at the student's positions.

    Attributes:
        rows: In the student's vocabulary, a row for each token of the student. One without a
            partner is sure of the student's own token.
        covered: Which rows are the teacher's; shape `(n,)`, bool.
    """

    rows: TopK
    covered: Tensor


def align_rows(
    teacher: TopK,
    partners: Sequence[int | None],
    tokens: tuple[Sequence[int], Sequence[int]],
    to_student: Tensor,
    vocabulary: int,
) -> AlignedRows:
    """Bring a teacher's predictions of a text to the student's tokens of the same text.

    A row is taken from the partner if its token maps to the student's. That it need not do though
    both cover the same bytes: some tokenizers put a space in front of a text, or drop capitals.

    Args:
        teacher: Row `j` predicts the teacher's token `j` of the text.
        partners: For each token of the student the teacher's one that may predict it, if any, as
            `Pair.lone_partners` or `dtw.lone_partners` tell it.
        tokens: The teacher's tokens of the text, and the student's.
        to_student: See `in_students_tokens`.
        vocabulary: The number of tokens that the student knows.

    Raises:
        CompatibilityError: These are not the rows, partners and tokens of one text.
    """
    theirs, ours = tokens
    last = max((partner for partner in partners if partner is not None), default=-1)
    if len(partners) != len(ours) or len(theirs) != len(teacher.ids) or last >= len(theirs):
        raise CompatibilityError(
            f"alignment: {len(teacher.ids)} rows for {len(theirs)} tokens of the teacher, and "
            f"{len(partners)} partners up to the teacher's token {last} for {len(ours)} tokens of "
            "the student; give those of one text"
        )
    device = teacher.ids.device
    labels = torch.tensor([*ours], dtype=torch.int64, device=device)
    # No partner is position -1, which is behind the teacher's tokens.
    behind = torch.tensor([UNMATCHED], device=device)
    mapped = torch.cat([_mapped(torch.tensor([*theirs], device=device), to_student), behind])
    positions = torch.tensor(
        [-1 if partner is None else partner for partner in partners],
        dtype=torch.int64,
        device=device,
    )
    covered = mapped[positions] == labels
    taken = positions[covered]
    own = in_students_tokens(teacher.each(lambda each: each[taken]), to_student, vocabulary)
    rows = certain_rows(labels, teacher.ids.shape[1], vocabulary)
    rows.ids[covered], rows.log_probs[covered] = own.ids, own.log_probs
    rows.tail[covered], rows.nll[covered] = own.tail, own.nll
    return AlignedRows(rows=rows, covered=covered)


def in_students_tokens(teacher: TopK, to_student: Tensor, vocabulary: int) -> TopK:
    """A teacher's predictions in the student's tokens, at the same positions.

    Of several tokens that become one, the likeliest gives the log-probability. Those left out, and
    those that the student does not have, count among all others; a row may be left without any.

    Args:
        teacher: The predictions.
        to_student: The student's id for each id of the teacher, or `UNMATCHED`; shape
            `(teacher vocabulary,)`. Ids from there on are padding.
        vocabulary: The number of tokens that the student knows.
    """
    ids, log_probs, left_out = _each_once(_mapped(teacher.ids, to_student), teacher.log_probs)
    return TopK(
        ids=ids,
        log_probs=log_probs,
        tail=torch.logaddexp(teacher.tail, left_out),
        nll=teacher.nll,
        vocabulary=vocabulary,
    )


def certain_rows(labels: Tensor, width: int, vocabulary: int) -> TopK:
    """Rows that are sure of one token each.

    Args:
        labels: The tokens; shape `(n,)`, int64.
        width: How many tokens a row has room for.
        vocabulary: How many tokens there are.
    """
    log_probs = torch.full((len(labels), width), -math.inf, device=labels.device)
    log_probs[:, :1] = 0.0
    ids = torch.zeros_like(log_probs, dtype=torch.int64)
    ids[:, :1] = labels[:, None]
    return TopK(
        ids=ids,
        log_probs=log_probs,
        tail=torch.full((len(labels),), -math.inf, device=labels.device),
        nll=torch.zeros(len(labels), device=labels.device),
        vocabulary=vocabulary,
    )


def _mapped(ids: Tensor, to_student: Tensor) -> Tensor:
    """The student's ids; those of padding are unmatched."""
    known = torch.cat([to_student, to_student.new_tensor([UNMATCHED])]).to(ids.device)
    return known[ids.long().clamp(max=len(to_student))]


def _each_once(mapped: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with each token of the student once, likeliest first, and what was left out of each."""
    # Sorting by id keeps the likeliest of equal ids in front; the order is then undone.
    by_id, order = mapped.sort(dim=1, stable=True)
    again = torch.zeros_like(by_id, dtype=torch.bool)
    again[:, 1:] = by_id[:, 1:] == by_id[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, order, again)
    kept = (mapped != UNMATCHED) & ~repeated & (log_probs > -math.inf)
    left_out = log_probs.masked_fill(kept, -math.inf).logsumexp(dim=1)
    front = (~kept).long().argsort(dim=1, stable=True)
    moved = log_probs.masked_fill(~kept, -math.inf).gather(1, front)
    return mapped.masked_fill(~kept, 0).gather(1, front), moved, left_out


def merge_groups(last: TopK, earlier: Tensor) -> TopK:
    """Merge what is predicted at the tokens of groups, by the chain rule.

    What the last token may be, times how likely the tokens before it were: the merge that GOLD
    (`GOLDTrainer` of the library TRL) calls Bayesian.

    Args:
        last: Predictions at the last token of each group.
        earlier: Negative log-probability of the tokens before it; shape `(groups,)`.

    Returns:
        Rows that add up to the probability of all tokens but the last.
    """
    log_probs, tail = last.log_probs - earlier[:, None], last.tail - earlier
    return replace(last, log_probs=log_probs, tail=tail)
