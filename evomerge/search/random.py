"""Uniform random search: the control that every other strategy has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Point, Result, StrategySettings


class RandomStrategy:
    """Draws points uniformly from the unit cube and ignores what it is told."""

    def __init__(self, settings: StrategySettings) -> None:
        self._dimension = settings.dimension
        self._rng = np.random.default_rng(settings.seed)

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        return [tuple(row) for row in self._rng.random((count, self._dimension)).tolist()]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn nothing."""
