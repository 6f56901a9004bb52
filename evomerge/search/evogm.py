"""EvoGM: losers are turned into winners, and elites become what is combined.

EvoGM, ICML 2026, https://arxiv.org/abs/2605.29295. Candidates are combinations of a basis. The
best 30 % of those known are winners, the others losers. One generator learns to turn losers into
winners, and a second one to turn them back, so that losers that differ become winners that do (the
cycle). New candidates are losers that were turned. In the second round the elites of the first are
the basis: the basis shift.

What is different here:

- The paper's first basis are experts. Here it is the axes of the cube, so that groups of layers
  have coefficients of their own. The second basis are points of the cube: a combination of them is
  that of their models where the operator is linear in its weights.
- The paper's generators are networks. Here they are affine in each coordinate and undo each other
  exactly; `turn` says which of all such pairs they are. The paper, as far as we know it,
  draws losers only to the winners' mean. The pair that does this best makes one point of all, so
  winners are drawn to the losers' mean as well.
- Losers are moved at random before they are turned: few losers would give few candidates.
- A round may be longer than the paper's, so that only its newest candidates count.
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
"""Elements of the second basis."""

FEWEST = ELITES
"""Candidates that have to be known before losers are turned."""

HISTORY = 32
"""Newest candidates that are winners or losers. With all of a long round the search lags behind
(benchmarks/LOG.md)."""

JITTER = 0.7
"""How far losers are moved, in standard deviations of all losers."""

LEAST_SPREAD = 1e-3
"""Standard deviations count as no smaller, so that equal winners are no end of the search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What candidates of a round are combinations of.

    Attributes:
        zero: The point where nothing is merged, shape `(D,)`.
        elements: Points of the cube, shape `(K, D)`.
        low: Least coefficient; the greatest is 1.
    """

    zero: Array
    elements: Array
    low: float

    def point(self, coefficients: Array) -> Array:
        """The combination with these coefficients, shape `(K,)`, put back into the cube."""
        return np.clip(self.zero + coefficients @ (self.elements - self.zero), 0.0, 1.0)


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
        size = settings.dimension
        self._basis = Basis(zero=np.zeros(size), elements=np.eye(size), low=0.0)
        self._shifted = False
        self._told = 0
        self._asked: deque[tuple[Basis, Array]] = deque()
        self._coefficients: list[Array] = []
        self._fitness: list[float] = []

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        # One by one, so that the points do not depend on how many are asked for at a time.
        asked = [self._propose() for _ in range(count)]
        self._asked += [(self._basis, each) for each in asked]
        return [tuple(self._basis.point(each).tolist()) for each in asked]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            basis, coefficients = self._asked.popleft()
            self._told += 1
            # A point of the first round has no coefficients in the second.
            if result.fitness is not None and basis is self._basis:
                self._coefficients.append(coefficients)
                self._fitness.append(result.fitness)
        half = self._told >= self._settings.candidates / 2
        if half and not self._shifted and len(self._fitness) >= ELITES:
            self._shift()

    def _propose(self) -> Array:
        """Coefficients of a new candidate, shape `(K,)`."""
        size = len(self._basis.elements)
        noise = self._rng.normal(size=size)
        if len(self._fitness) < FEWEST:
            # Only in the first round: the second begins with the elites.
            proposed = np.array(self._settings.centre or [0.5] * size) + self._step * noise
        else:
            newest = slice(-HISTORY, None)
            losers, winners = split(
                np.array(self._coefficients[newest]), np.array(self._fitness[newest])
            )
            drawn = losers[self._rng.integers(len(losers))]
            moved = drawn + JITTER * losers.std(axis=0, ddof=1) * noise
            proposed = turn(moved, losers, winners)
        return np.clip(proposed, self._basis.low, 1.0)

    def _shift(self) -> None:
        order = np.argsort(-np.array(self._fitness), kind="stable")[:ELITES]
        elites = np.array([self._basis.point(self._coefficients[place]) for place in order])
        zero = nothing_merged(self._settings.genes, self._settings.dimension)
        self._basis = Basis(zero=zero, elements=elites, low=-1.0)
        # An elite is the combination of itself alone, and what it scored is known.
        self._coefficients = list(np.eye(ELITES))
        self._fitness = [self._fitness[place] for place in order]
        self._shifted = True


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


def turn(points: Array, losers: Array, winners: Array) -> Array:
    """Turn losers into winners; with the sides exchanged, winners into losers.

    Of all pairs of maps that are affine in each coordinate and undo each other, this one brings
    either side nearest to the other's mean. With standard deviations `s` of losers and `t` of
    winners, a map that multiplies distances by `a` brings losers to a mean squared distance of
    `a^2 s^2` from the winners' mean, and its inverse winners to one of `t^2 / a^2` from the
    losers'. The sum is least where `a^2 = t / s`.

    Args:
        points: Shape `(N, K)`.
        losers: Shape `(L, K)`, two at least, as of winners.
        winners: Shape `(W, K)`.
    """
    spreads = (np.maximum(side.std(axis=0, ddof=1), LEAST_SPREAD) for side in (losers, winners))
    of_losers, of_winners = spreads
    scale = np.sqrt(of_winners / of_losers)
    turned: Array = winners.mean(axis=0) + scale * (points - losers.mean(axis=0))
    return turned
