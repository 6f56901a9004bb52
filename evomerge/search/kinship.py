"""Top-k greedy merging by model kinship: the best models are averaged in pairs, and a strange one.

Hu et al., "Exploring Model Kinship for Merging Large Language Models", 2024,
https://arxiv.org/abs/2410.12613, Algorithm 1. All pairs of sources are merged first; then, as long
as the best k of all models change, all pairs of these, and the best one with the model of the
generation before that is least akin to it. The search also ends when the best k are closely akin.

The paper merges by SLERP at 0.5. Here it is the average, which SLERP is for tensors whose cosine
is above 0.9995, as that of most siblings: so every model is a known combination of the sources,
and the kinship of any two follows from the inner products of the sources' task vectors alone.
Two more differences: no combination is made twice, so the strange model is one that the best has
not been merged with; and kinship keeps its sign, which the authors' code drops.
"""

from __future__ import annotations

from collections import deque
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evomerge.search.contract import Breeding, Finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.search.contract import Proposal, Result, StrategySettings

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]
Shares = tuple[float, ...]

BEST, CLOSE = 3, 0.9
"""k, and the kinship of the best k above which there is little to gain, as in the paper."""


class Kinship:
    """Individuals are averages of two others; the sources are the first.

    Args:
        settings: Number of sources, and the inner products of their task vectors; without these
            they count as unrelated and equally far from the base.
    """

    def __init__(self, settings: StrategySettings) -> None:
        count = settings.sources
        self._gram = np.eye(count) if settings.gram is None else np.array(settings.gram)
        # How much of each source is in each individual, by its number.
        self._shares: list[Shares] = [tuple(row) for row in np.eye(count).tolist()]
        self._made = set(self._shares)
        self._fitness: dict[int, float] = {}
        # The sources are asked for, to hear what they scored.
        self._queue: deque[int | Pair] = deque(range(count))
        self._asked: deque[int] = deque()
        # The last generation of merges, and the best k before it.
        self._generation: list[int] = []
        self._best: list[int] = []

    def ask(self, count: int) -> list[Proposal]:
        """Propose merges of this generation; fewer than asked for where it has fewer.

        Raises:
            Finished: The best k are the same as a generation ago, or closely akin.
        """
        if not self._queue and not self._asked:
            self._queue.extend(self._next_generation())
        return [self._propose(self._queue.popleft()) for _ in range(min(count, len(self._queue)))]

    def tell(self, results: Sequence[Result]) -> None:
        """Remember what the oldest ones scored."""
        for result in results:
            number = self._asked.popleft()
            if result.fitness is not None:
                self._fitness[number] = result.fitness

    def _propose(self, wanted: int | Pair) -> Proposal:
        if isinstance(wanted, int):
            # The source keeps its own number; what was asked for has one all the same.
            self._shares.append(self._shares[wanted])
            self._asked.append(wanted)
            return wanted
        number = len(self._shares)
        self._shares.append(self._average(wanted))
        self._asked.append(number)
        self._generation.append(number)
        return Breeding(operator="linear", parents=wanted)

    def _next_generation(self) -> list[Pair]:
        """The pairs to merge next."""
        best = sorted(self._fitness, key=lambda one: (-self._fitness[one], one))[:BEST]
        if not self._generation:
            pairs = self._new(combinations(sorted(self._fitness), 2))
        else:
            akin = self._mean_kinship(best)
            if akin > CLOSE:
                raise Finished(f"the best {len(best)} models have a kinship of {akin:.2f}")
            if best == self._best:
                raise Finished(f"the best {len(best)} models stayed the same for a generation")
            pairs = self._new(combinations(best, 2))
            pairs += self._new(((best[0], other) for other in self._strangers(best[0])), most=1)
        if not pairs:
            raise Finished("the best models have been merged with one another")
        # Before the first merges there is no best k that could stay the same.
        self._best, self._generation = best if self._generation else [], []
        return pairs

    def _strangers(self, best: int) -> list[int]:
        """The models of the last generation, the least akin to the best one first."""
        others = [each for each in self._generation if each in self._fitness and each != best]
        return sorted(others, key=lambda other: (self._kinship(best, other), other))

    def _new(self, pairs: Iterable[Pair], most: int | None = None) -> list[Pair]:
        """The first pairs whose average is not there yet."""
        found: list[Pair] = []
        for pair in pairs:
            average = self._average(pair)
            if average not in self._made and len(found) != most:
                self._made.add(average)
                found.append(pair)
        return found

    def _average(self, pair: Pair) -> Shares:
        # Halves of halves have no rounding error, so equal averages are equal.
        one, other = (self._shares[member] for member in pair)
        return tuple((a + b) / 2 for a, b in zip(one, other, strict=True))

    def _mean_kinship(self, members: Sequence[int]) -> float:
        found = [self._kinship(one, other) for one, other in combinations(members, 2)]
        return sum(found) / len(found) if found else 0.0

    def _kinship(self, one: int, other: int) -> float:
        return kinship(self._gram, np.array(self._shares[one]), np.array(self._shares[other]))


def kinship(gram: Array, one: Array, other: Array) -> float:
    """Cosine of two combinations of task vectors; 0 beside one of zeros.

    With the inner products of centred task vectors it is the correlation.

    Args:
        gram: Inner products of the task vectors, shape `(M, M)`.
        one: How much of each is in the first, shape `(M,)`.
        other: The same of the second.
    """
    norms = float(one @ gram @ one) * float(other @ gram @ other)
    return float(one @ gram @ other) / norms**0.5 if norms > 0 else 0.0
