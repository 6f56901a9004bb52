"""A particle swarm in the space of coefficients.

The velocity is that of PSO-Merging (arXiv 2508.19839); two terms are of Model Swarms (Feng et al.,
"Model Swarms: Collaborative Search to Adapt LLM Experts via Swarm Intelligence", arXiv 2410.11163,
section 2): every particle sets out towards a random place, and the worst place found repels.
Both move whole models, by factors that all entries share; here a particle is a point of the unit
cube with random factors for each coordinate, and the repulsion fades.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.contract import Point, Result, StrategySettings

    Coordinates = NDArray[np.float64]

INERTIA, OWN_PULL, SWARM_PULL = 0.2, 2.0, 2.0
"""PSO-Merging's."""

REPULSION = 0.25
"""Of a particle's first step, in proportion to the pulls about what Model Swarms has."""

FADING = 0.5
"""Of the repulsion, from step to step. Undamped it drives the swarm to the walls of the cube, and
results get worse with any repulsion that stays (benchmarks/LOG.md)."""

SMALLEST = 4
"""Least number of particles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A place that was evaluated."""

    place: Coordinates
    fitness: float


@dataclass(kw_only=True, slots=True)
class Particle:
    """Where it is, how it moves, and the best that it found."""

    place: Coordinates
    velocity: Coordinates
    repulsion: float = REPULSION
    best: Finding | None = None


class Swarm:
    """Particles that are drawn to the best they found and to the best that any found.

    A particle moves when it is asked for again, which it may be once its last place has been
    told; while all are under way, new ones join. There are as many as a generation has points,
    and at least `SMALLEST`. One that fails moves on without a memory of it.
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._rng = np.random.default_rng(settings.seed)
        self._dimension = settings.dimension
        self._missing = max(settings.generation, SMALLEST)
        self._resting: deque[Particle] = deque()
        self._under_way: deque[Particle] = deque()
        self._best: Finding | None = None
        self._worst: Finding | None = None

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        particles = [self._next() for _ in range(count)]
        self._under_way += particles
        return [tuple(particle.place.tolist()) for particle in particles]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            particle = self._under_way.popleft()
            self._resting.append(particle)
            if result.fitness is not None:
                found = Finding(place=particle.place, fitness=result.fitness)
                particle.best = better(particle.best, found)
                self._best = better(self._best, found)
                if self._worst is None or found.fitness < self._worst.fitness:
                    self._worst = found

    def _next(self) -> Particle:
        if self._missing > 0 or not self._resting:
            self._missing -= 1
            return self._newcomer()
        particle = self._resting.popleft()
        if self._best is None or self._worst is None:
            # Nothing is known yet but where not to be.
            return self._newcomer()
        particle.velocity = next_velocity(
            place=particle.place,
            velocity=particle.velocity,
            own_best=particle.best.place if particle.best else particle.place,
            best=self._best.place,
            worst=self._worst.place,
            repulsion=particle.repulsion,
            draws=self._rng.random((3, self._dimension)),
        )
        particle.repulsion *= FADING
        particle.place = np.clip(particle.place + particle.velocity, 0.0, 1.0)
        return particle

    def _newcomer(self) -> Particle:
        place, goal = self._rng.random((2, self._dimension))
        return Particle(place=place, velocity=goal - place)


def better(known: Finding | None, found: Finding) -> Finding:
    """The better of two findings; of equals the one that is known."""
    return found if known is None or found.fitness > known.fitness else known


def next_velocity(
    *,
    place: Coordinates,
    velocity: Coordinates,
    own_best: Coordinates,
    best: Coordinates,
    worst: Coordinates,
    repulsion: float,
    draws: Coordinates,
) -> Coordinates:
    """The velocity of a particle for its next step, shape `(D,)`.

    Args:
        place: Where it is, shape `(D,)`, as all but the draws.
        velocity: Its velocity so far.
        own_best: The best place that it found.
        best: The best place that any found.
        worst: The worst place that any found.
        repulsion: How strongly that one repels.
        draws: Uniform numbers, shape `(3, D)`: for its own best, the swarm's, and the worst.
    """
    own, social, away = draws
    pulls = OWN_PULL * own * (own_best - place) + SWARM_PULL * social * (best - place)
    push = repulsion * away * (place - worst)
    following: Coordinates = INERTIA * velocity + pulls + push
    return following
