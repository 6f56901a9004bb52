"""Which of the student's tokens a teacher's token is aligned with in a corpus, and how often.

Wan et al. 2024, "FuseChat: Knowledge Fusion of Chat Models", https://arxiv.org/abs/2408.07990: a
token maps to the one with the least edit distance among those that it was aligned with.

Two quirks of the released code are kept, so that its results can be reproduced. One token that
contains the other costs a tenth. And the distance is multiplied by the sigmoid of the count, which
makes frequent pairs dearer, by up to 1.37 times, where one would expect cheaper. Rows of pieces
that only together make up a token are not used: here a row belongs to the token that it predicts,
and a piece is another token.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import torch

from evomerge.refinement.alignment.vocabulary_map import UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from evomerge.refinement.alignment.vocabulary import Vocabulary

Counts = Counter[tuple[int, int]]
"""How often a token of the teacher was aligned with one of the student."""


def count_pairs(
    teacher: Sequence[int], student: Sequence[int], aligned: Sequence[Sequence[int]]
) -> Counts:
    """Count the pairs of tokens that are aligned in one text; counts of texts add up.

    Args:
        teacher: The teacher's tokens of the text.
        student: The student's.
        aligned: For each token of the student the teacher's tokens that are aligned with it, as
            `dtw.warp` tells it.
    """
    return Counter(
        (teacher[position], token)
        for token, positions in zip(student, aligned, strict=True)
        for position in positions
    )


def statistics_map(
    counts: Mapping[tuple[int, int], int], teacher: Vocabulary, student: Vocabulary
) -> Tensor:
    """Map each token that was aligned to the cheapest of its partners; the lowest id of several.

    Returns:
        The student's id for each id of the teacher, or `UNMATCHED` for tokens that were never
        aligned; shape `(len(teacher),)`, int64.
    """
    theirs, ours = teacher.texts(), student.texts()
    best: dict[int, tuple[float, int]] = {}
    for (number, partner), count in counts.items():
        cost = _cost(theirs[number] or "", ours[partner] or "", count)
        best[number] = min(best.get(number, (math.inf, partner)), (cost, partner))
    found = torch.full((len(teacher),), UNMATCHED)
    for number, (_, partner) in best.items():
        found[number] = partner
    return found


def _cost(theirs: str, ours: str, count: int) -> float:
    from rapidfuzz.distance import Levenshtein

    contained = 0.1 if theirs in ours or ours in theirs else 1.0
    return Levenshtein.distance(theirs, ours) * contained / (1 + math.exp(-count))
