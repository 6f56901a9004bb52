"""The granularity ladder: a search of few layer groups that are split on the way.

On the lowest rung all layers of a source, component and parameter share one coordinate, which CMA
searches. From rung to rung every group is split in two, and CMA starts again around the mean of
the best points so far, which are points of the finer space, too. On the last rung each coordinate
of the genome is on its own.

What a split can gain is tried before it is made: each candidate has the halves of its groups moved
apart a little, at random, so that the best ones show which halves had better differ.

All groups are split, important or not. That a group matters does not say that its halves differ:
splits by importance found more where good weights vary smoothly with depth, and lost more than
that where they do not (benchmarks/LOG.md).
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.nevergrad import NevergradStrategy, default_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Array = NDArray[np.float64]
    Group = NDArray[np.intp]

CLIMBING = 0.5
"""Part of the planned candidates that all rungs but the last have together, in equal parts."""

GAP = 0.5
"""How far halves are moved up or down, in first steps."""

ELITES = 8
"""Best points whose mean the next rung starts from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """Groups of coordinates that move together.

    Attributes:
        groups: Indices of coordinates; each coordinate is in one group.
        centre: The point that they move from, shape `(D,)`.
    """

    groups: tuple[Group, ...]
    centre: Array

    @property
    def means(self) -> Array:
        """The mean of each group's coordinates at the centre, shape `(G,)`."""
        return np.array([self.centre[group].mean() for group in self.groups])

    def point(self, tied: Array, apart: Array) -> Array:
        """The point with the groups at other means, but for the walls of the cube.

        Args:
            tied: The groups' means, shape `(G,)`; differences within a group stay as they are at
                the centre.
            apart: How far the first half of each group is moved up after that, and the second
                down, shape `(G,)`.
        """
        point = self.centre.copy()
        for group, shift, gap in zip(self.groups, tied - self.means, apart, strict=True):
            point[group] += shift
            if len(group) > 1:
                first, second = halves(group)
                point[first] += gap
                point[second] -= gap
        inside: Array = np.clip(point, 0.0, 1.0)
        return inside


class Ladder:
    """CMA in tied coordinates, which are untied on the way.

    Args:
        settings: Dimension, genes, generation, seed, centre, first step, and the number of
            candidates, by which splits are planned. More may be asked for: they stay on the last
            rung. While everything fails there is no next rung.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)
        self._gap = GAP * (settings.step or default_step(settings.dimension))
        rungs = ladder(series(settings))
        self._rung = Rung(
            groups=rungs[0], centre=np.array(settings.centre or [0.5] * settings.dimension)
        )
        self._finer = deque(rungs[1:])
        share = CLIMBING * settings.candidates / max(len(self._finer), 1)
        self._splits = deque(share * (rung + 1) for rung in range(len(self._finer)))
        self._search = self._start()
        self._asked: deque[tuple[Rung, Array]] = deque()
        self._known: list[tuple[float, Array]] = []
        self._told = 0

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        tied = np.array(self._search.ask(count))
        apart = self._gap * self._rng.choice([-1.0, 1.0], tied.shape)
        points = [self._rung.point(*each) for each in zip(tied, apart, strict=True)]
        self._asked += [(self._rung, point) for point in points]
        return [tuple(point.tolist()) for point in points]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        of_this_rung = []
        for result in results:
            rung, point = self._asked.popleft()
            if result.fitness is not None:
                self._known.append((result.fitness, point))
            if rung is self._rung:
                of_this_rung.append(result)
        self._search.tell(of_this_rung)
        self._told += len(results)
        if self._splits and self._told >= self._splits[0] and self._known:
            self._climb()

    def _climb(self) -> None:
        self._splits.popleft()
        # Sorting is stable: of equals the older ones are elites.
        elites = sorted(self._known, key=lambda known: -known[0])[:ELITES]
        mean = np.mean([point for _, point in elites], axis=0)
        # Between two choices there may lie a third one, which is not their mean.
        centre = np.where(self._settings.choices, elites[0][1], mean)
        self._rung = Rung(groups=self._finer.popleft(), centre=centre)
        self._search = self._start()

    def _start(self) -> NevergradStrategy:
        settings = replace(
            self._settings,
            dimension=len(self._rung.groups),
            centre=tuple(self._rung.means.tolist()),
            genes=(),
            # Or each rung would make the same random moves.
            seed=(self._settings.seed + len(self._rung.groups)) % 2**32,
        )
        return NevergradStrategy("CMA", settings)


def series(settings: StrategySettings) -> tuple[Group, ...]:
    """Coordinates that differ only in their layer group, in order of depth.

    All of them, in their own order, where it is not known what they drive.
    """
    if not settings.genes:
        return (np.arange(settings.dimension),)
    found = defaultdict(list)
    for index, gene in enumerate(settings.genes):
        key = gene.parameter, gene.source, gene.component, gene.operators
        found[key].append((gene.group, index))
    return tuple(np.array([index for _, index in sorted(each)]) for each in found.values())


def ladder(coarsest: tuple[Group, ...]) -> list[tuple[Group, ...]]:
    """The groups of each rung, from the coarsest to single coordinates; each halves the last."""
    rungs = [coarsest]
    while max(map(len, rungs[-1])) > 1:
        rungs.append(tuple(half for group in rungs[-1] for half in halves(group)))
    return rungs


def halves(group: Group) -> tuple[Group, ...]:
    """A group's first and second half, the second the larger if they differ; a single stays."""
    middle = len(group) // 2
    return (group[:middle], group[middle:]) if middle else (group,)
