"""The table of strategies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.search.map_elites import CycleQD
from evomerge.search.nevergrad import ALLOWED, NevergradStrategy
from evomerge.search.niches import M2N2
from evomerge.search.random import RandomStrategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy, StrategySettings

STRATEGIES: dict[str, Callable[[StrategySettings], Strategy]] = {
    "random": RandomStrategy,
    **{name: partial(NevergradStrategy, name) for name in ALLOWED},
    "M2N2": M2N2,
    "CycleQD": CycleQD,
}
"""By their names in recipes."""


def build_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Build a strategy by its name in recipes."""
    return STRATEGIES[name](settings)
