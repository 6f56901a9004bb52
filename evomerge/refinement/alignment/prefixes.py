"""A teacher's tokens split into the student's, so that its prediction is one of the student's too.

A token of the teacher is a path through the student's tokens: at the start of a text that both
have read, the student's next token is as likely as all of the teacher's tokens that begin with it
together, and the ones after it follow by the chain rule. The idea is that of language models over
bytes that are made of those over tokens (Phan et al. 2024, "Exact Byte-Level Probabilities from
Tokenized Language Models", https://arxiv.org/abs/2410.09303), with the student's tokens for bytes.
It is exact but for texts that the student splits otherwise when more follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evomerge.refinement.alignment.rows import AlignedRows, certain_rows
from evomerge.refinement.alignment.vocabulary_map import UNMATCHED, exact_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from evomerge.refinement.alignment.pairs import Pair
    from evomerge.refinement.alignment.placed import Reader
    from evomerge.refinement.predictions.top_k import TopK

DEEPEST = 8
"""Tokens of the student that a token of the teacher is followed for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """How far the student is within a token of the teacher, at each of its supervised tokens.

    Attributes:
        rows: The teacher's row that predicts it, or -1 if none does; shape `(n,)`, int64.
        depths: How many of the student's tokens lie between where that row begins and it; shape
            `(n,)`, int64.
        paths: These tokens, filled up with `UNMATCHED`; shape `(n, DEEPEST)`, int64.
    """

    rows: Tensor
    depths: Tensor
    paths: Tensor


def split_tokens(teacher: Reader, student: Reader, pairs: Mapping[int, int]) -> Tensor:
    """The student's tokens for each token of the teacher.

    Args:
        teacher: The teacher's tokenizer. Its special tokens are not split: they mean something
            that no text does.
        student: The student's.
        pairs: The student's id for some ids of the teacher, such as those that end a text.

    Returns:
        Filled up with `UNMATCHED`, which is all that a token has that the student cannot spell;
        shape `(len(teacher), DEEPEST)`, int64.
    """
    vocabulary, special = teacher.vocabulary, teacher.special
    found = torch.full((len(vocabulary), DEEPEST), UNMATCHED)
    found[:, 0] = exact_map(vocabulary, student.vocabulary)
    texts = {}
    for number, spelling in enumerate(vocabulary.spellings):
        if spelling and number not in special and found[number, 0] == UNMATCHED:
            try:
                texts[number] = spelling.decode()
            except UnicodeDecodeError:
                continue
    split = (
        student.tokenizer([*texts.values()], add_special_tokens=False).input_ids if texts else []
    )
    for (number, text), ids in zip(texts.items(), split, strict=True):
        # Some put a space in front, which the teacher's token does not have.
        spelled = b"".join(student.vocabulary.spellings[each] or b"" for each in ids)
        if spelled == text.encode():
            own = torch.tensor(ids[:DEEPEST])
            found[number, : len(own)] = own
    for theirs, ours in pairs.items():
        found[theirs] = torch.tensor([ours] + [UNMATCHED] * (DEEPEST - 1))
    return found


def follow(pair: Pair, split: Tensor) -> Steps:
    """Which row of the teacher predicts each of the student's supervised tokens, and how deep."""
    ours, theirs = pair.student.supervised, pair.teacher.supervised
    rows = torch.full((len(ours),), -1)
    depths = torch.zeros(len(ours), dtype=torch.int64)
    paths = torch.full((len(ours), DEEPEST), UNMATCHED)
    for group in pair.groups:
        (start, stop), row = group.student, group.teacher[0]
        for depth, expected in enumerate(split[theirs[row]].tolist()[: stop - start]):
            if ours[start + depth] != expected:
                break
            place = start + depth
            rows[place], depths[place] = row, depth
            paths[place, :depth] = torch.tensor(ours[start:place], dtype=torch.int64)
    return Steps(rows=rows, depths=depths, paths=paths)


def rows_by_prefix(
    teacher: TopK, steps: Steps, labels: Tensor, split: Tensor, vocabulary: int
) -> AlignedRows:
    """Bring a teacher's predictions of a text to the student's tokens of the same text.

    Behind the first token of a path, what counts is what the kept tokens that begin with it say.
    Where more of the prediction was left out than they hold, there is no row, nor where the
    student can spell none of them.

    Args:
        teacher: Row `j` predicts the teacher's supervised token `j`.
        steps: What `follow` found.
        labels: The student's supervised tokens; shape `(n,)`, int64.
        split: What `split_tokens` found.
        vocabulary: The number of tokens that the student knows.
    """
    taken = (steps.rows >= 0).nonzero()[:, 0]
    row, depth = steps.rows[taken], steps.depths[taken]
    # Ids behind the teacher's vocabulary are padding.
    known = torch.cat([split, split.new_full((1, DEEPEST), UNMATCHED)])
    paths = known[teacher.ids[row].long().clamp(max=len(split))]
    behind = torch.arange(DEEPEST) < depth[:, None]
    begins = ((paths == steps.paths[taken][:, None]) | ~behind[:, None]).all(dim=2)
    log_probs = teacher.log_probs[row].masked_fill(~begins, -math.inf)
    total = torch.where(depth > 0, log_probs.logsumexp(dim=1), 0.0)
    rest = torch.where(depth > 0, -math.inf, teacher.tail[row])
    following = paths.gather(2, depth[:, None, None].expand(-1, paths.shape[1], 1))[..., 0]
    ids, summed, others = _summed(following, log_probs)
    covered = torch.zeros(len(labels), dtype=torch.bool)
    is_known = (depth == 0) | (total > teacher.tail[row])
    covered[taken] = is_known & summed.isfinite().any(dim=1)
    rows = certain_rows(labels, teacher.ids.shape[1], vocabulary)
    rows.ids[taken], rows.log_probs[taken] = ids, summed - total[:, None]
    rows.tail[taken] = torch.logaddexp(rest, others) - total
    rows.nll[taken] = teacher.nll[row]
    return AlignedRows(rows=rows, covered=covered)


def _summed(tokens: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each token once with all its probability, likeliest first, and that of no token.

    Args:
        tokens: Ids, or `UNMATCHED`; shape `(n, k)`.
        log_probs: Of the same shape.
    """
    same = tokens[:, :, None] == tokens[:, None, :]
    together = torch.where(same, log_probs[:, None, :], -math.inf).logsumexp(dim=2)
    repeated = torch.tril(same, diagonal=-1).any(dim=2)
    unmatched = tokens == UNMATCHED
    others = log_probs.masked_fill(~unmatched, -math.inf).logsumexp(dim=1)
    found = together.masked_fill(repeated | unmatched, -math.inf)
    found, order = found.sort(dim=1, descending=True, stable=True)
    ids = tokens.gather(1, order).masked_fill(found == -math.inf, 0)
    return ids, found, others
