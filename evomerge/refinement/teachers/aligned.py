"""A teacher with another tokenizer: it reads the texts by itself, and its rows are carried over.

Where groups of bytes are compared (`spans`), or rows by their number (`position`), a token of the
student without a partner has no row of the teacher. Dynamic time warping (`edit_distance`,
`exact`, `statistics`) is FuseLLM's and FuseChat's algorithm, and there such a token is taught as
certain: the fallback of Wan et al. 2024, https://arxiv.org/abs/2401.10491.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from evomerge.recipe.distillation import ALIGNED_BY
from evomerge.refinement.alignment.coverage import Coverage, cover
from evomerge.refinement.alignment.dtw import lone_partners, warp
from evomerge.refinement.alignment.mapping_statistics import count_pairs, statistics_map
from evomerge.refinement.alignment.rows import align_rows, merge_groups
from evomerge.refinement.alignment.vocabulary_map import (
    UNMATCHED,
    exact_map,
    min_edit_map,
    with_pairs,
)
from evomerge.refinement.predictions.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from evomerge.recipe.distillation import AlignmentKind, LossName
    from evomerge.refinement.alignment.pairs import Pair
    from evomerge.refinement.alignment.placed import Reader
    from evomerge.refinement.predictions.top_k import TopK

IN_OWN_TOKENS = frozenset(ALIGNED_BY)
"""Losses that a teacher is compared by in its own vocabulary."""

BY_GROUPS = frozenset({"alm", "span_hybrid"})
"""Losses of groups of tokens."""

WARPED = frozenset({"exact", "edit_distance", "statistics"})
"""Alignments by dynamic time warping."""

Partners = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentMode:
    """How a teacher is carried over.

    Attributes:
        loss: What it is compared by.
        alignment: How its tokens find partners.
    """

    loss: LossName
    alignment: AlignmentKind


class AlignedTeacher:
    """What a teacher with another tokenizer predicts of the student's tokens.

    Args:
        pairs: The texts, by the numbers of their examples, in both tokenizations.
        readers: The tokenizers of student and teacher.
        mode: How it is carried over.

    Attributes:
        to_student: The map of its vocabulary to the student's.
        coverage: What is covered of all texts together.
    """

    def __init__(
        self,
        pairs: Mapping[int, Pair],
        readers: tuple[Reader, Reader],
        mode: AlignmentMode,
    ) -> None:
        self._pairs, self._mode = pairs, mode
        self._student = readers[0]
        self.to_student, self._partners = _align(pairs, readers, mode)
        self.coverage = sum(
            (_covered(pair, self._partners[index], mode) for index, pair in pairs.items()),
            Coverage(),
        )

    def targets(self, index: int, rows: TopK) -> Targets:
        """The targets of an example.

        Args:
            index: The number of the example.
            rows: What it predicts of the supervised tokens, as it reads them.
        """
        pair, partners = self._pairs[index], self._partners[index]
        nll = group_likelihoods(pair, rows)
        if self._mode.loss in IN_OWN_TOKENS:
            targets = _in_own_tokens(partners, rows, nll)
            return _merged(pair, targets, rows) if self._mode.loss in BY_GROUPS else targets
        tokens = pair.teacher.supervised, pair.student.supervised
        aligned = align_rows(rows, partners, tokens, self.to_student, len(self._student.tokenizer))
        # Of some rows the student has none of the tokens that are kept.
        covered = aligned.rows.log_probs.isfinite().any(dim=1)
        if self._mode.alignment not in WARPED:
            covered &= aligned.covered
        before = torch.zeros_like(covered, dtype=torch.int64)
        return Targets(rows=replace(aligned.rows, nll=nll), covered=covered, before=before)


def group_likelihoods(pair: Pair, rows: TopK) -> Tensor:
    """What a teacher finds of the text of each group, at the student's last token of the group.

    Added up it is what the teacher finds of the text, so that teachers of all tokenizers and the
    student itself can be compared. Tokens in no group, as where one of the two was cut off
    earlier, are taken for as likely as the others.

    Returns:
        Negative log-likelihoods, infinite if there is no group; shape `(n,)`.
    """
    found = torch.full((len(pair.student.supervised),), torch.inf)
    covered = sum(group.student[1] - group.student[0] for group in pair.groups)
    if covered:
        sums = [rows.nll[slice(*group.teacher)].sum() for group in pair.groups]
        found[:] = torch.stack(sums).sum() / covered
    for group in pair.groups:
        found[slice(*group.student)] = 0.0
        found[group.student[1] - 1] = rows.nll[slice(*group.teacher)].sum()
    return found


def ends_of(pairs: Mapping[int, Pair], readers: tuple[Reader, Reader]) -> dict[int, int]:
    """The student's tokens that end a turn or a text, by those of the teacher that do.

    They are those that stand at the same places, the more frequent first: the token that ends a
    turn need not be the one that is said to end texts.
    """
    ours, theirs = readers
    of_texts = theirs.tokenizer.eos_token_id, ours.tokenizer.eos_token_id
    of_student, of_teacher = ours.special, theirs.special
    met: Counter[tuple[int, int]] = Counter()
    for pair in pairs.values():
        for group in pair.groups:
            if group.is_alone:
                their = pair.teacher.supervised[group.teacher[0]]
                our = pair.student.supervised[group.student[0]]
                if their in of_teacher and our in of_student:
                    met[their, our] += 1
    found = {} if None in of_texts else dict([of_texts])
    return found | dict(each for each, _ in reversed(met.most_common()))


def _align(
    pairs: Mapping[int, Pair], readers: tuple[Reader, Reader], mode: AlignmentMode
) -> tuple[Tensor, dict[int, Partners]]:
    """The map of vocabularies, and which row of the teacher is for which of the student."""
    student, teacher = readers
    ends = ends_of(pairs, readers)
    if mode.loss in BY_GROUPS:
        to_student = exact_map(teacher.vocabulary, student.vocabulary)
        partners = {index: pair.last_partners() for index, pair in pairs.items()}
        return with_pairs(to_student, ends), partners
    if mode.alignment == "position":
        to_student = exact_map(teacher.vocabulary, student.vocabulary)
        return to_student, {index: _by_number(pair) for index, pair in pairs.items()}
    if mode.alignment == "spans":
        to_student = exact_map(teacher.vocabulary, student.vocabulary)
        partners = {index: pair.lone_partners() for index, pair in pairs.items()}
    else:
        to_student, partners = _warped(pairs, readers, mode)
    to_student = with_pairs(to_student, ends)
    if mode.loss not in IN_OWN_TOKENS:
        partners = {
            index: _of_one_meaning(pairs[index], own, to_student)
            for index, own in partners.items()
        }
    return to_student, partners


def _warped(
    pairs: Mapping[int, Pair], readers: tuple[Reader, Reader], mode: AlignmentMode
) -> tuple[Tensor, dict[int, Partners]]:
    student, teacher = (each.vocabulary for each in readers)
    warped = {
        index: warp(teacher.words(pair.teacher.supervised), student.words(pair.student.supervised))
        for index, pair in pairs.items()
    }
    partners = {index: lone_partners(each) for index, each in warped.items()}
    if mode.alignment == "edit_distance":
        return min_edit_map(teacher, student), partners
    if mode.alignment == "exact":
        return exact_map(teacher, student), partners
    counts: Counter[tuple[int, int]] = Counter()
    for index, pair in pairs.items():
        counts += count_pairs(pair.teacher.supervised, pair.student.supervised, warped[index])
    return statistics_map(counts, teacher, student), partners


def _by_number(pair: Pair) -> Partners:
    """The row of the same number, as far as both have one."""
    ours, theirs = len(pair.student.supervised), len(pair.teacher.supervised)
    return tuple(row if row < theirs else None for row in range(ours))


def _of_one_meaning(pair: Pair, partners: Partners, to_student: Tensor) -> Partners:
    """Partners whose token is the student's, by the map."""
    ours, theirs = pair.student.supervised, pair.teacher.supervised
    means = to_student[torch.tensor(theirs, dtype=torch.int64)].tolist()
    return tuple(
        partner if partner is not None and means[partner] == own != UNMATCHED else None
        for own, partner in zip(ours, partners, strict=True)
    )


def _in_own_tokens(partners: Partners, rows: TopK, nll: Tensor) -> Targets:
    """The rows of partners, in the teacher's vocabulary."""
    # Behind the last row there is one for tokens without a partner; nothing learns from it.
    padded = rows.each(lambda own: torch.cat([own, own.new_zeros(1, *own.shape[1:])]))
    places = torch.tensor([-1 if each is None else each for each in partners], dtype=torch.int64)
    found = replace(padded.each(lambda own: own[places]), nll=nll)
    return Targets(rows=found, covered=places >= 0, before=torch.zeros_like(places))


def _merged(pair: Pair, targets: Targets, rows: TopK) -> Targets:
    """The last row of each group, times the probability of the tokens before it."""
    before, earlier = targets.before.clone(), torch.zeros_like(targets.rows.nll)
    for group in pair.groups:
        (start, stop), (first, end) = group.student, group.teacher
        before[stop - 1] = stop - 1 - start
        earlier[stop - 1] = rows.nll[first : end - 1].sum()
    return replace(targets, rows=merge_groups(targets.rows, earlier), before=before)


def _covered(pair: Pair, partners: Partners, mode: AlignmentMode) -> Coverage:
    fallbacks = sum(partner is None for partner in partners)
    if mode.loss in BY_GROUPS:
        fallbacks = len(partners) - sum(
            group.student[1] - group.student[0] for group in pair.groups
        )
    return cover(pair, fallbacks)
