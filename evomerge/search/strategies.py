"""The table of strategies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.search.choice import AUTO, choose
from evomerge.search.coordinate import COORDINATE, CoordinateSearch
from evomerge.search.differential import DErand1
from evomerge.search.evogm import EvoGM
from evomerge.search.evolver import Evolver
from evomerge.search.evolver_de import LEAST_SOURCES, EvolverDE
from evomerge.search.evolver_merged import MERGES, MergedEvolver
from evomerge.search.genetic import GA
from evomerge.search.kinship import Kinship
from evomerge.search.ladder import Ladder
from evomerge.search.map_elites import CycleQD
from evomerge.search.nevergrad import ALLOWED, NevergradStrategy
from evomerge.search.niche_models import M2N2Slerp
from evomerge.search.niches import M2N2
from evomerge.search.nsga2 import NSGA2
from evomerge.search.random import RandomStrategy
from evomerge.search.shade import SHADE
from evomerge.search.sobol import Sobol
from evomerge.search.swarm import Swarm
from evomerge.search.variation import polynomial_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy, StrategySettings

BREEDERS: dict[str, Callable[[StrategySettings], Strategy]] = {
    "Evolver": Evolver,
    **{name: partial(MergedEvolver, merge) for name, merge in MERGES.items()},
    "EvolverDE": EvolverDE,
    "Kinship": Kinship,
    "M2N2Slerp": M2N2Slerp,
}
"""Those whose individuals are models, by their names in recipes."""

FEWEST_SOURCES = {**dict.fromkeys(BREEDERS, 2), "EvolverDE": LEAST_SOURCES}
"""How many sources they need."""

BY_KINSHIP = frozenset({"Kinship"})
"""Those that are told the inner products of the sources' task vectors."""

BY_SCALES = frozenset({"GA", "GAPolynomial"})
"""Those whose steps have a scale for each gene."""

STRATEGIES: dict[str, Callable[[StrategySettings], Strategy]] = {
    AUTO: lambda settings: STRATEGIES[choose(settings).name](settings),
    "random": RandomStrategy,
    "Sobol": Sobol,
    **{name: partial(NevergradStrategy, name) for name in ALLOWED},
    **BREEDERS,
    "DErand1": DErand1,
    "SHADE": SHADE,
    "Ladder": Ladder,
    "EvoGM": EvoGM,
    "GA": GA,
    "GAPolynomial": partial(GA, mutation=polynomial_step),
    "Swarm": Swarm,
    COORDINATE: CoordinateSearch,
    "NSGA2": NSGA2,
    "M2N2": M2N2,
    "CycleQD": CycleQD,
}
"""All, by their names in recipes."""


WITHOUT_CENTRE = {*BREEDERS, "random", "Sobol", "Swarm", "NSGA2", "M2N2", "CycleQD"}
"""Those whose first points lie all over the cube, wherever its centre is said to be."""


def build_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Build a strategy by its name in recipes."""
    return STRATEGIES[name](settings)
