"""A search finds a planted optimum better than random search does."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.nevergrad import ALLOWED
from evomerge.search.strategies import build_strategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName

DIMENSION, GENERATION, EVALUATIONS = 9, 16, 160
SEEDS = range(10)


@functools.cache
def _best(name: StrategyName, seed: int) -> float:
    """The best fitness found; the optimum has fitness 0 and lies elsewhere for every seed."""
    optimum = np.random.default_rng(1000 + seed).uniform(0.2, 0.8, DIMENSION)
    settings = StrategySettings(dimension=DIMENSION, generation=GENERATION, seed=seed)
    strategy, best = build_strategy(name, settings), -np.inf
    for _ in range(EVALUATIONS // GENERATION):
        points = np.array(strategy.ask(GENERATION))
        fitness = (-((points - optimum) ** 2).sum(axis=1)).tolist()
        strategy.tell([Result(fitness=value) for value in fitness])
        best = max(best, *fitness)
    return best


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALLOWED, "DErand1", "SHADE", "GA", "Swarm", "NSGA2"])
def test_it_beats_random_search_seed_by_seed(name: StrategyName) -> None:
    gains = [_best(name, seed) - _best("random", seed) for seed in SEEDS]
    assert sum(gain > 0 for gain in gains) >= 8
    # Four standard errors of the paired difference.
    assert statistics.mean(gains) > 4 * statistics.stdev(gains) / len(gains) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "SHADE", "GA", "Swarm", "NSGA2"]
)
def test_it_comes_within_a_tenth_of_the_range_of_every_coordinate(name: StrategyName) -> None:
    """On average; OnePlusOne and DErand1 need more than ten generations for that."""
    shortfall = -statistics.mean(_best(name, seed) for seed in SEEDS)
    assert (shortfall / DIMENSION) ** 0.5 < 0.1


@pytest.mark.slow
def test_the_genetic_algorithm_travels_to_a_corner_far_from_where_it_starts() -> None:
    settings = StrategySettings(dimension=24, generation=GENERATION, seed=0)
    strategy, best = build_strategy("GA", settings), -np.inf
    for _ in range(60):
        points = np.array(strategy.ask(GENERATION))
        fitness = (-(((points - 0.95) ** 2).mean(axis=1) ** 0.5)).tolist()
        strategy.tell([Result(fitness=value) for value in fitness])
        best = max(best, *fitness)
    assert best > -0.05
