"""What a search strategy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, ...]
"""A point of the unit cube."""


class Strategy(Protocol):
    """Proposes points and learns from their fitness, which it maximises.

    A strategy is a deterministic function of its settings and of the calls made to it: the same
    asks and tells give the same points again. That is what makes a run resumable from its store
    alone, so a strategy never reads a clock, a file or a global random generator.
    """

    def ask(self, count: int) -> list[Point]:
        """Propose points."""

    def tell(self, fitness: Sequence[float | None]) -> None:
        """Learn the fitness of the points asked last, in their order; None where one failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategySettings:
    """What every strategy is built from.

    Attributes:
        dimension: Number of coordinates.
        generation: Points asked at a time.
        seed: Seeds its random numbers.
        step: Real standard deviation of the first points, as a fraction of the range; None for
            the strategy's own choice.
    """

    dimension: int
    generation: int
    seed: int
    step: float | None = None
