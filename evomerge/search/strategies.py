"""The table of strategies."""

from __future__ import annotations

from evomerge.recipe.search import StrategyName
from evomerge.search.contract import Strategy, StrategySettings
from evomerge.search.nevergrad import NevergradStrategy
from evomerge.search.random import RandomStrategy


def build_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Build a strategy by its name in recipes."""
    if name == "random":
        return RandomStrategy(settings)
    return NevergradStrategy(name, settings)
