"""What a teacher predicts, told in the student's vocabulary at the student's positions.

Wan et al. 2024, "Knowledge Fusion of Large Language Models", sec. 3.2 (FuseLLM),
https://arxiv.org/abs/2401.10491. Here a row belongs to the token that it predicts, and it is that
token which has to have a partner. FuseLLM asks that of the token before, and where there is none
its released code teaches to repeat that one; here such a row teaches the token that follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CompatibilityError
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED
from evomerge.refinement.predictions import TopK

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
    tokens: Sequence[int],
    to_student: Tensor,
    vocabulary: int,
) -> AlignedRows:
    """Bring a teacher's predictions of a text to the student's tokens of the same text.

    Of several tokens that become one, the likeliest gives the log-probability. Those left out,
    and those that the student does not have, count among all others.

    Args:
        teacher: Row `j` predicts the teacher's token `j` of the text.
        partners: For each token of the student the teacher's one whose row it takes, if any, as
            `Groups.partners` or `matching_partners` tell it.
        tokens: The student's tokens of the text.
        to_student: The student's id for each id of the teacher, or `UNMATCHED`; shape
            `(teacher vocabulary,)`. Ids from there on are padding.
        vocabulary: The number of tokens that the student knows.

    Raises:
        CompatibilityError: A partner has no row, or a token has no entry in `partners`.
    """
    last = max((partner for partner in partners if partner is not None), default=-1)
    if len(partners) != len(tokens) or last >= len(teacher.ids):
        raise CompatibilityError(
            f"alignment: {len(partners)} partners up to row {last} for {len(tokens)} tokens of "
            f"the student and {len(teacher.ids)} rows of the teacher; align the texts that the "
            "rows were made of"
        )
    device = teacher.ids.device
    covered = torch.tensor([p is not None for p in partners], dtype=torch.bool, device=device)
    taken = torch.tensor([p for p in partners if p is not None], dtype=torch.int64, device=device)
    width = teacher.ids.shape[1]
    ids = torch.zeros(len(tokens), width, dtype=torch.int64, device=device)
    log_probs = torch.full((len(tokens), width), -math.inf, device=device)
    tail = torch.full((len(tokens),), -math.inf, device=device)
    nll = torch.zeros(len(tokens), device=device)
    ids[:, 0] = torch.tensor(tokens, dtype=torch.int64, device=device)
    log_probs[:, 0] = 0.0
    mapped = _map(teacher.ids[taken], teacher.log_probs[taken], to_student.to(device))
    ids[covered], log_probs[covered], left_out = mapped
    tail[covered] = torch.logaddexp(teacher.tail[taken], left_out)
    nll[covered] = teacher.nll[taken]
    rows = TopK(ids=ids, log_probs=log_probs, tail=tail, nll=nll, vocabulary=vocabulary)
    return AlignedRows(rows=rows, covered=covered)


def _map(ids: Tensor, log_probs: Tensor, to_student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in the student's vocabulary, likeliest first, and what was left out of each."""
    known = torch.cat([to_student, to_student.new_tensor([UNMATCHED])])
    mapped = known[ids.clamp(max=len(to_student))]
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


def bayesian_merge(rows: Tensor, token_probabilities: Tensor) -> Tensor:
    """Merge what is predicted at the tokens of a group, by the chain rule.

    The merge that GOLD (the TRL library's `GOLDTrainer`) calls Bayesian: what the last token may
    be, times how likely the tokens before it were.

    Args:
        rows: Probabilities at each token of the group; shape `(n, vocabulary)`.
        token_probabilities: Those of the group's own tokens; shape `(n,)`. The last is not used.

    Returns:
        Shape `(vocabulary,)`; it adds up to the probability of all tokens but the last.
    """
    return rows[-1] * token_probabilities[:-1].prod()
