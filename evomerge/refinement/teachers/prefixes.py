"""A teacher with another tokenizer whose tokens are split into the student's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from evomerge.refinement.alignment.coverage import Coverage, cover
from evomerge.refinement.alignment.prefixes import follow, rows_by_prefix, split_tokens
from evomerge.refinement.predictions.targets import Targets
from evomerge.refinement.teachers.aligned import ends_of, group_likelihoods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evomerge.refinement.alignment.pairs import Pair
    from evomerge.refinement.alignment.placed import Reader
    from evomerge.refinement.predictions.top_k import TopK


class PrefixTeacher:
    """What a teacher with another tokenizer predicts of the student's tokens, by their prefixes.

    Args:
        pairs: The texts, by the numbers of their examples, in both tokenizations.
        readers: The tokenizers of student and teacher.

    Attributes:
        to_student: The first of the student's tokens for each of the teacher's.
        coverage: What is covered of all texts together.
    """

    def __init__(self, pairs: Mapping[int, Pair], readers: tuple[Reader, Reader]) -> None:
        student, teacher = readers
        self._pairs = pairs
        self._vocabulary = len(student.tokenizer)
        self._split = split_tokens(teacher, student, ends_of(pairs, readers))
        self._steps = {index: follow(pair, self._split) for index, pair in pairs.items()}
        self.to_student = self._split[:, 0]
        self.coverage = Coverage()
        for index, pair in pairs.items():
            self.coverage += cover(pair, int((self._steps[index].rows < 0).sum()))

    def targets(self, index: int, rows: TopK) -> Targets:
        """The targets of an example.

        Args:
            index: The number of the example.
            rows: What the teacher predicts of the supervised tokens, as it reads them.
        """
        pair = self._pairs[index]
        labels = torch.tensor(pair.student.supervised, dtype=torch.int64)
        found = rows_by_prefix(rows, self._steps[index], labels, self._split, self._vocabulary)
        return Targets(
            rows=replace(found.rows, nll=group_likelihoods(pair, rows)),
            covered=found.covered,
            before=torch.zeros_like(labels),
        )
