"""Strategies against each other on made-up landscapes, seed by seed.

    OMP_NUM_THREADS=1 python benchmarks/strategies.py --strategies random GA --against CMA

Two landscapes: `smooth` is the distance from an optimum, as root mean square of the coordinates;
`items` is the share of binary items that are solved. Ability falls with the squared distance from
the optimum, little in most coordinates and much in a few, and every item adds a smooth whim of its
own, so that the fitness is deterministic but rugged. A strategy sees 100 items; printed is the
share solved of 3000 others by the best candidate. The difference is the median over seeds of the
strategy less `--against`, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evomerge.genome.genome import Gene
from evomerge.layout import Component
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import STRATEGIES, build_strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evomerge.recipe.search import StrategyName

    Array = NDArray[np.float64]

LAYOUTS = {
    8: (4, 2, (None,)),
    24: (4, 3, (Component.ATTENTION, None)),
    96: (8, 4, (Component.ATTENTION, Component.MLP, None)),
}
"""Layer groups, sources and components by dimension."""

SEEN, UNSEEN = slice(0, 100), slice(100, 3100)
BEST, AVERAGE = 0.67, 0.36
"""Share of the items that the optimum and an average point of the cube solve."""


class Landscape(Protocol):
    """What a strategy searches."""

    def fitness(self, points: Array) -> Array:
        """What the strategy is told."""

    def truth(self, points: Array) -> Array:
        """What it is judged by."""


class Smooth:
    """The distance from an optimum, negated."""

    def __init__(self, dimension: int, seed: int) -> None:
        self.optimum = np.random.default_rng(1000 + seed).uniform(0.2, 0.8, dimension)

    def fitness(self, points: Array) -> Array:
        """The negated root mean square distance of a coordinate."""
        return -np.sqrt(((points - self.optimum) ** 2).mean(axis=1))

    truth = fitness


class Items:
    """The share of binary items that are solved."""

    def __init__(self, dimension: int, seed: int) -> None:
        rng = np.random.default_rng(2000 + seed)
        self.optimum = rng.uniform(0.1, 0.9, dimension)
        self.curvature = rng.permutation(np.arange(1, dimension + 1) ** -1.2)
        count = UNSEEN.stop
        self.difficulty = rng.normal(size=count)
        self.discrimination = np.exp(0.3 * rng.normal(size=count))
        slow, fast = 4 / dimension**0.5, 16 / dimension**0.5
        self.waves = [(0.6, slow * rng.normal(size=(count, dimension)))]
        self.waves += [(0.3, fast * rng.normal(size=(count, dimension)))]
        self.phases = rng.uniform(0, 2 * np.pi, (2, count))
        cube = rng.random((400, dimension))
        self.top = np.quantile(self._bars(self.optimum[None], UNSEEN), BEST)
        average = np.quantile(self._bars(cube[:50], UNSEEN), AVERAGE)
        self.scale = (self.top - average) / self._loss(cube).mean()

    def fitness(self, points: Array) -> Array:
        """The share that is solved of the items that the strategy sees."""
        return self._solved(points, SEEN)

    def truth(self, points: Array) -> Array:
        """The share that is solved of the other items."""
        return self._solved(points, UNSEEN)

    def _solved(self, points: Array, items: slice) -> Array:
        ability = self.top - self.scale * self._loss(points)
        return (ability[:, None] > self._bars(points, items)).mean(axis=1)

    def _loss(self, points: Array) -> Array:
        return ((points - self.optimum) ** 2) @ self.curvature

    def _bars(self, points: Array, items: slice) -> Array:
        """The ability above which each item is solved, shape `(points, items)`."""
        whims = sum(
            height * np.cos(points @ wave[items].T + phase[items])
            for (height, wave), phase in zip(self.waves, self.phases, strict=True)
        )
        return self.difficulty[items] - whims / self.discrimination[items]


LANDSCAPES = {"smooth": Smooth, "items": Items}


def main() -> None:
    """Print one line per landscape, dimension and strategy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--against", choices=STRATEGIES, default="CMA")
    parser.add_argument("--dimensions", nargs="+", type=int, choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--landscapes", nargs="+", choices=LANDSCAPES, default=LANDSCAPES)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--generation", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 20), metavar=("FROM", "TO"))
    options = parser.parse_args()
    print(f"landscape dimension strategy        median  less {options.against} (95 %)")
    for kind in options.landscapes:
        for dimension in options.dimensions:
            landscapes = {s: LANDSCAPES[kind](dimension, s) for s in range(*options.seeds)}
            settings = (dimension, options.evaluations, options.generation)
            bar = np.array(
                [play(options.against, landscapes[s], s, *settings) for s in landscapes]
            )
            for name in options.strategies:
                found = np.array([play(name, landscapes[s], s, *settings) for s in landscapes])
                line = f"{kind:<9} {dimension:>9} {name:<14} {np.median(found):>7.3f}"
                print(line, difference(found - bar), flush=True)


def play(
    name: StrategyName,
    landscape: Landscape,
    seed: int,
    dimension: int,
    evaluations: int,
    generation: int,
) -> float:
    """What the best candidate of a search is worth."""
    strategy = build_strategy(
        name,
        StrategySettings(
            dimension=dimension, generation=generation, seed=seed, genes=genes(dimension)
        ),
    )
    found, fitness = np.empty((0, dimension)), np.empty(0)
    while len(found) < evaluations:
        points = np.array(strategy.ask(min(generation, evaluations - len(found))))
        values = landscape.fitness(points)
        strategy.tell([Result(fitness=value) for value in values.tolist()])
        found, fitness = np.concatenate([found, points]), np.concatenate([fitness, values])
    return float(landscape.truth(found[[fitness.argmax()]])[0])


def genes(dimension: int) -> tuple[Gene, ...]:
    """Weights of the sources, by layer group and component."""
    groups, sources, components = LAYOUTS[dimension]
    return tuple(
        Gene(
            parameter="weight", source=source, group=group, component=component, low=0.0, high=1.0
        )
        for source in range(sources)
        for group in range(groups)
        for component in components
    )


def difference(gains: Array) -> str:
    """The median of paired differences and its interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(gains, (10_000, len(gains))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return f"{np.median(gains):+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
