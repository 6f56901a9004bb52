"""Scrambled Sobol points: they fill the cube more evenly than random ones do.

Sobol, "On the distribution of points in a cube and the approximate evaluation of integrals", 1967;
scrambled as Matousek, "On the L2-discrepancy for anchored boxes", 1998. The points are scipy's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Point, Result, StrategySettings


class Sobol:
    """Hands out one sequence, however it is asked for, and ignores what it is told."""

    def __init__(self, settings: StrategySettings) -> None:
        from scipy.stats import qmc

        rng = np.random.default_rng(settings.seed)
        self._sequence = qmc.Sobol(settings.dimension, scramble=True, rng=rng)

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        # One at a time: scipy warns of first draws that are no power of two.
        return [tuple(self._sequence.random()[0].tolist()) for _ in range(count)]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn nothing."""
