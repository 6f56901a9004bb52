"""The table of strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.search.nevergrad import NevergradStrategy
from evomerge.search.random import RandomStrategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy, StrategySettings


def build_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Build a strategy by its name in recipes."""
    if name == "random":
        return RandomStrategy(settings)
    return NevergradStrategy(name, settings)
