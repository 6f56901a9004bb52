"""Which strategy `auto` is: the one that our measurements speak for (benchmarks/LOG.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import StrategySettings

AUTO = "auto"

WIDE = 60
"""Genes from which on their interactions cannot be learnt in a search of hundreds of candidates.

With 96 DiagonalCMA found a little more than CMA, with 8 and 24 as much, whatever the candidates
(48 to 500) and the generations (8 to 32); between 24 and 96 nothing was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The strategy of a run.

    Attributes:
        name: Its name; never `auto`.
        reason: Why it was chosen; None if the recipe names it.
    """

    name: StrategyName
    reason: str | None = None


def choose(settings: StrategySettings) -> Choice:
    """The strategy that `auto` stands for in a search.

    Neither the number of candidates nor that of tasks changes it: no strategy was better than
    these two with 48, 200 or 500 candidates, and a run has one winner, of which NSGA2 finds a
    worse one while it looks for the whole trade-off.
    """
    if settings.dimension >= WIDE:
        reason = (
            f"how {settings.dimension} genes interact cannot be learnt from "
            f"{settings.candidates} candidates"
        )
        return Choice(name="DiagonalCMA", reason=reason)
    genes = f"{settings.dimension} gene{'s' if settings.dimension > 1 else ''}"
    return Choice(name="CMA", reason=f"nothing that we measured finds more with {genes}")
