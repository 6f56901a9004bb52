"""Tokens of one text in two tokenizations, aligned by dynamic time warping.

FuseLLM: Wan et al. 2024, "Knowledge Fusion of Large Language Models",
https://arxiv.org/abs/2401.10491. A token costs its edit distance to its partner. That can put a
piece of a word with a wrong neighbour: I|get|s|it against I|gets|it joins `s` with `it`; groups
of bytes (`spans`) do not, and are the better choice where nothing has to be reproduced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Costs = NDArray[np.int64]
Aligned = tuple[tuple[int, ...], ...]
"""For each token of the student the teacher's tokens that are aligned with it, ascending."""


def warp(teacher: Sequence[str], student: Sequence[str]) -> Aligned:
    """Align two sequences of tokens so that the edit distances add up to the least.

    The way back through the table of sums goes to the least of the three neighbours: of equal
    ones to the diagonal, then to the teacher's token before, then to the student's.

    Args:
        teacher: Tokens as texts without signs for word boundaries, as `Vocabulary.words`.
        student: The same.

    Returns:
        At least one token of the teacher for each of the student, unless the teacher has none.
    """
    if not teacher or not student:
        return ((),) * len(student)
    sums = _sums(_costs(teacher, student))
    row, column = len(teacher), len(student)
    found: list[list[int]] = [[] for _ in student]
    while row and column:
        found[column - 1].append(row - 1)
        moves = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min(moves, key=lambda move: sums[move])
    return tuple(tuple(reversed(each)) for each in found)


def lone_partners(aligned: Aligned) -> tuple[int | None, ...]:
    """For each token of the student the teacher's one that it is aligned with, if only one."""
    return tuple(positions[0] if len(positions) == 1 else None for positions in aligned)


def _costs(teacher: Sequence[str], student: Sequence[str]) -> Costs:
    """Edit distances of all pairs; shape `(len(teacher), len(student))`."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    distances: Costs = cdist(teacher, student, scorer=Levenshtein.distance, dtype=np.int64)
    return distances


def _sums(costs: Costs) -> NDArray[np.float64]:
    """The least sum of costs up to each pair, with a row and a column of infinities in front.

    Within a row, `D[j] = c[j] + min(above[j], D[j-1])`. With `C` the running sum of `c`, that is
    `C[j] + min over k up to j of (above[k] - C[k-1])`, which needs no loop; integers are exact.
    """
    rows, columns = costs.shape
    sums = np.full((rows + 1, columns + 1), np.inf)
    sums[0, 0] = 0
    for row, cost in enumerate(costs, start=1):
        running = np.cumsum(cost)
        above = np.minimum(sums[row - 1, 1:], sums[row - 1, :-1])
        sums[row, 1:] = running + np.minimum.accumulate(above - (running - cost))
    return sums
