"""A search finds a planted optimum better than random search does."""

from __future__ import annotations

import functools
import statistics
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES, build_strategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName

DIMENSION, GENERATION, EVALUATIONS = 9, 16, 160
SEEDS = range(10)

NOT_CONTROLS = sorted(STRATEGIES.keys() - BREEDERS.keys() - {"random", "Sobol"})

SLOWER = {"OnePlusOne", "DErand1", "CycleQD", "NSGA2"}
"""Those that need more generations; the last two also serve single tasks."""


@functools.cache
def _best(name: StrategyName, seed: int) -> float:
    """The best fitness found; the optimum has fitness 0 and lies elsewhere for every seed."""
    optimum = np.random.default_rng(1000 + seed).uniform(0.2, 0.8, DIMENSION)
    settings = StrategySettings(dimension=DIMENSION, generation=GENERATION, seed=seed)
    strategy, best = build_strategy(name, settings), -np.inf
    for _ in range(EVALUATIONS // GENERATION):
        gaps = np.abs(np.array(strategy.ask(GENERATION)) - optimum)
        strategy.tell([_result(gap) for gap in gaps])
        best = max(best, float(-(gaps**2).sum(axis=1).min()))
    return best


def _result(gap: np.ndarray) -> Result:
    """A third of the coordinates is a task; an item is to come near enough to one of them."""
    tasks = -(gap**2).reshape(3, -1).sum(axis=1)
    items = gap[:, None] < (0.05, 0.1, 0.2, 0.4)
    return Result(
        fitness=float(tasks.sum()),
        scores=tuple(tasks.tolist()),
        items=tuple(items.ravel().astype(float).tolist()),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_CONTROLS)
def test_it_beats_random_search_seed_by_seed(name: StrategyName) -> None:
    gains = [_best(name, seed) - _best("random", seed) for seed in SEEDS]
    assert sum(gain > 0 for gain in gains) >= 8
    # Four standard errors of the paired difference.
    assert statistics.mean(gains) > 4 * statistics.stdev(gains) / len(gains) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in NOT_CONTROLS if each not in SLOWER])
def test_it_comes_within_a_tenth_of_the_range_of_every_coordinate(name: StrategyName) -> None:
    """On average."""
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
