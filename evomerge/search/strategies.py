"""The table of strategies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.search.nevergrad import ALLOWED, NevergradStrategy
from evomerge.search.nsga2 import NSGA2
from evomerge.search.random import RandomStrategy
from evomerge.search.sobol import Sobol
from evomerge.search.swarm import Swarm

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy, StrategySettings

STRATEGIES: dict[str, Callable[[StrategySettings], Strategy]] = {
    "random": RandomStrategy,
    "Sobol": Sobol,
    **{name: partial(NevergradStrategy, name) for name in ALLOWED},
    "Swarm": Swarm,
    "NSGA2": NSGA2,
}
"""By their names in recipes."""


def build_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Build a strategy by its name in recipes."""
    return STRATEGIES[name](settings)
