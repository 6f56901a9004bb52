"""EvoGM: a pair of maps between losers and winners, and elites that become what is merged.

"EvoGM", ICML 2026, https://arxiv.org/abs/2605.29295. Every candidate is a combination of a basis;
the best 30 % of a round's candidates are its winners; a generator learns to turn losers into
winners, another to turn them back (the cycle); new candidates are losers, turned. In a second
round the elites of the first are the basis: the basis shift.

What is different here:

- The paper's basis of the first round are whole experts; here it are the coordinates of the cube,
  so that layers and parts of a model have coefficients of their own.
- The paper trains two networks of five layers. Here the two maps are affine in each coordinate.
  Among those that undo each other exactly, the ones that bring losers nearest to the winners' mean
  and winners nearest to the losers' are known in closed form. The paper as we know it pulls only
  losers; affine maps would then shrink all to one point, and need the pull both ways.
- Losers are moved a little before they are turned, as no network makes each look different.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.nevergrad import default_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.genome.genes import Gene
    from evomerge.search.contract import Point, Result, StrategySettings

    Array = NDArray[np.float64]

WINNERS = 0.3
"""The paper's share."""

ELITES = 8
"""Elements of the second round's basis."""

FEWEST = 8
"""Candidates of a round that have to be known before generators are fitted."""

JITTER = 0.25
"""How far losers are moved, in standard deviations of all losers."""

LEAST_SPREAD = 1e-3
"""Standard deviations count as no smaller, so that equal winners are no end of the search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What candidates of a round are combinations of.

    Attributes:
        zero: The point where nothing is merged, shape `(D,)`.
        elements: Points of the cube, shape `(K, D)`.
        centre: Coefficients that the first candidates lie around, shape `(K,)`.
        low: Least coefficient; the greatest is 1.
    """

    zero: Array
    elements: Array
    centre: Array
    low: float

    def point(self, coefficients: Array) -> Array:
        """The combination with these coefficients, shape `(K,)`, put back into the cube."""
        return np.clip(self.zero + coefficients @ (self.elements - self.zero), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generators:
    """An affine map from losers to winners, and its inverse.

    Attributes:
        losers: Mean of the losers, shape `(K,)`, as all.
        winners: Mean of the winners.
        scale: What distances from the mean are multiplied by on the way.
    """

    losers: Array
    winners: Array
    scale: Array

    def win(self, loser: Array) -> Array:
        """Turn a loser into a winner."""
        turned: Array = self.winners + self.scale * (loser - self.losers)
        return turned

    def lose(self, winner: Array) -> Array:
        """Turn a winner into a loser; undoes `win`."""
        turned: Array = self.losers + (winner - self.winners) / self.scale
        return turned


class EvoGM:
    """Turns losers into winners; half-way through, starts over with combinations of the elites.

    Args:
        settings: Dimension, genes, seed, centre, first step, and the number of candidates, of
            which each round has half.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._step = settings.step or default_step(settings.dimension)
        self._basis = cube(settings)
        self._shifted = False
        self._told = 0
        self._asked: deque[tuple[Basis, Array]] = deque()
        self._coefficients: list[Array] = []
        self._fitness: list[float] = []

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        asked = [self._propose() for _ in range(count)]
        self._asked += [(self._basis, each) for each in asked]
        return [tuple(self._basis.point(each).tolist()) for each in asked]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            basis, coefficients = self._asked.popleft()
            self._told += 1
            # What is told late of the first round has no coefficients in the second.
            if result.fitness is not None and basis is self._basis:
                self._coefficients.append(coefficients)
                self._fitness.append(result.fitness)
        half = self._told >= self._settings.candidates / 2
        if half and not self._shifted and len(self._fitness) >= ELITES:
            self._shift()

    def _propose(self) -> Array:
        centre, low = self._basis.centre, self._basis.low
        if len(self._fitness) < FEWEST:
            proposed = self._rng.normal(centre, self._step)
        else:
            losers, winners = split(np.array(self._coefficients), np.array(self._fitness))
            noise = self._rng.normal(0.0, JITTER, len(centre)) * losers.std(axis=0)
            loser = losers[self._rng.integers(len(losers))] + noise
            proposed = fit_generators(losers, winners).win(loser)
        return np.clip(proposed, low, 1.0)

    def _shift(self) -> None:
        order = np.argsort(-np.array(self._fitness), kind="stable")[:ELITES]
        elites = np.array([self._basis.point(self._coefficients[place]) for place in order])
        zero = nothing_merged(self._settings.genes, self._settings.dimension)
        centre = np.full(ELITES, 1 / ELITES)
        self._basis = Basis(zero=zero, elements=elites, centre=centre, low=-1.0)
        # An elite is the combination of itself alone, and what it scored is known.
        self._coefficients = list(np.eye(ELITES))
        self._fitness = [self._fitness[place] for place in order]
        self._shifted = True


def cube(settings: StrategySettings) -> Basis:
    """The basis in which coefficients are the coordinates of the cube."""
    size = settings.dimension
    centre = np.array(settings.centre or [0.5] * size)
    return Basis(zero=np.zeros(size), elements=np.eye(size), centre=centre, low=0.0)


def nothing_merged(genes: Sequence[Gene], dimension: int) -> Array:
    """The point where weights are 0, or as low as they can be, and all else is in the middle.

    The origin where it is not known what coordinates drive. Shape `(D,)`.
    """
    if not genes:
        return np.zeros(dimension)
    zero = [
        -gene.low / (gene.high - gene.low) if gene.parameter == "weight" else 0.5 for gene in genes
    ]
    return np.clip(zero, 0.0, 1.0)


def split(coefficients: Array, fitness: Array) -> tuple[Array, Array]:
    """Losers and winners, of shapes `(L, K)` and `(W, K)`; of equals the older one wins."""
    order = np.argsort(-fitness, kind="stable")
    winners = math.ceil(WINNERS * len(order))
    return coefficients[order[winners:]], coefficients[order[:winners]]


def fit_generators(losers: Array, winners: Array) -> Generators:
    """The maps that undo each other and bring either side nearest to the other's mean.

    In each coordinate, with standard deviations `s` of the losers and `t` of the winners, a map
    that multiplies by `a` leaves losers a mean squared distance of `a^2 s^2`, and its inverse
    winners one of `t^2 / a^2`: their sum is least where `a^2 = t / s`.
    """
    spreads = (np.maximum(side.std(axis=0), LEAST_SPREAD) for side in (losers, winners))
    of_losers, of_winners = spreads
    return Generators(
        losers=losers.mean(axis=0),
        winners=winners.mean(axis=0),
        scale=np.sqrt(of_winners / of_losers),
    )
