"""Natural niches of models: M2N2 as it was published for language models.

Abrantes, Lange and Tang, "Competition and Attraction Improve Model Fusion", 2025,
https://arxiv.org/abs/2508.16204. Individuals are models: the sources, merges of two of them drawn
at random, and then children of parents that are drawn by niche and attraction, interpolated on a
sphere with a split point anywhere among the weights, and never mutated.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.contract import Breeding
from evomerge.search.niches import WARM_UP, Niches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Proposal, Result, StrategySettings
    from evomerge.search.niches import Array


class M2N2Slerp:
    """Fitness sharing by item, attraction, and spherical crossover of models.

    Args:
        settings: Number of sources, which enter the archive first, and seed.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._sources, self._count = settings.sources, 0
        self._asked: deque[int] = deque()
        self._archive: Niches[int] = Niches()

    def ask(self, count: int) -> list[Proposal]:
        """Propose the sources, to hear what they score, then children."""
        solved = self._archive.solved()
        return [self._propose(solved) for _ in range(count)]

    def tell(self, results: Sequence[Result]) -> None:
        """Let the oldest models that were not told yet compete, in order of asking."""
        for result in results:
            self._archive.add(self._asked.popleft(), result)

    def _propose(self, solved: Array) -> Proposal:
        number = self._count
        self._count += 1
        if number < self._sources:
            self._asked.append(number)
            return number
        # Later proposals know this one by the sources and what was asked before it.
        self._asked.append(self._sources + number)
        if number < self._sources + WARM_UP or len(self._archive) < 2:
            first, second = self._rng.choice(self._sources, 2, replace=False).tolist()
        else:
            first, second = self._archive.parents(solved, self._rng)
        ways = {"t": float(self._rng.random()), "split": float(self._rng.random())}
        return Breeding(operator="split_slerp", parents=(first, second), parameters=ways)
