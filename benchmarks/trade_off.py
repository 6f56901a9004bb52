"""How much of a trade-off strategies find, and how near they come to a single optimum.

python benchmarks/trade_off.py [STRATEGY...]

Two tasks, each solved at an optimum of its own: scores fall with the root mean square distance d
from it, as exp(-d^2 / 0.05) where a compromise pays (`knee`) and as (1 - d / 0.6)^3 where it does
not (`apart`). Printed are the hypervolume of all that was found, and the lower of the best scores
on the two tasks (`ends`); for `single`, the squared distance from one optimum. Means and standard
errors of ten seeds, each of which has optima of its own.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, get_args

import numpy as np

from evomerge.recipe.search import StrategyName
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.pareto import hypervolume
from evomerge.search.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

SEEDS, GENERATION = range(10), 16
SIZES = {9: 160, 24: 400}
"""Candidates by dimension."""

LANDSCAPES: dict[str, tuple[int, tuple[float, float], Callable[[Numbers], Numbers]]] = {
    "single": (1, (0.2, 0.8), lambda distances: -(distances**2)),
    "knee": (2, (0.2, 0.8), lambda distances: np.exp(-(distances**2) / 0.05)),
    "apart": (2, (0.1, 0.9), lambda distances: (1 - distances / 0.6) ** 3),
}
"""Number of tasks, where their optima lie, and what a distance scores."""


def play(name: str, landscape: str, dimension: int, seed: int) -> Numbers:
    """All scores of one search, shape `(candidates, tasks)`."""
    tasks, (low, high), score = LANDSCAPES[landscape]
    optima = np.random.default_rng(1000 + seed).uniform(low, high, (tasks, dimension))
    settings = StrategySettings(dimension=dimension, generation=GENERATION, seed=seed)
    strategy, found = STRATEGIES[name](settings), []
    for _ in range(SIZES[dimension] // GENERATION):
        points = np.array(strategy.ask(GENERATION))
        scores = score(np.sqrt(((points[:, None] - optima) ** 2).mean(axis=2)))
        strategy.tell([Result(fitness=sum(row), scores=tuple(row)) for row in scores.tolist()])
        found.append(scores)
    return np.concatenate(found)


def measures(landscape: str, scores: Numbers, dimension: int) -> dict[str, float]:
    """What is reported of a search."""
    if landscape == "single":
        return {"single": -dimension * float(scores.max())}
    volume = hypervolume(scores, np.zeros(2))
    return {landscape: volume, f"{landscape}, ends": float(scores.max(axis=0).min())}


def main(names: Sequence[str]) -> None:
    """Print a row for each strategy and dimension."""
    for name in names:
        for dimension in SIZES:
            rows = [
                {
                    key: value
                    for landscape in LANDSCAPES
                    for key, value in measures(
                        landscape, play(name, landscape, dimension, seed), dimension
                    ).items()
                }
                for seed in SEEDS
            ]
            cells = []
            for key in rows[0]:
                values = [row[key] for row in rows]
                error = statistics.stdev(values) / len(values) ** 0.5
                cells.append(f"{key} {statistics.mean(values):.3f} ± {error:.3f}")
            print(f"{name}, {dimension} dimensions:", "; ".join(cells), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(get_args(StrategyName)))
