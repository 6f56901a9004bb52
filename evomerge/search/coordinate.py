"""Coordinate search: one coordinate at a time, with steps that turn round and shrink.

H. H. Rosenbrock, "An Automatic Method for Finding the Greatest or Least Value of a Function", The
Computer Journal 3, 1960, without its rotation of the axes and its longer steps after a success: a
coordinate keeps a step that was better, and takes half of one that was not the other way. It ends
when no step is worth taking, as compass search does (Kolda, Lewis, Torczon, "Optimization by
Direct Search", SIAM Review 45, 2003, section 3).

Asynchronous: a coordinate whose turn comes before its last point was told is taken to have failed.
Coordinates that are choices try every other choice once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.contract import Finished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Point, Result, StrategySettings

COORDINATE = "Coordinate"
"""Its name in recipes."""

STEP = 0.25
"""First step, as a fraction of the range, if the settings have none."""

SMALLEST = 2**-10
"""Steps below this fraction of the range end the search: no score tells such points apart."""


@dataclass(slots=True)
class Incumbent:
    """The best point at some time.

    Attributes:
        point: The point.
        fitness: Its fitness; minus infinity while it is not known.
    """

    point: Point
    fitness: float = -np.inf


@dataclass(slots=True)
class Axis:
    """What is tried along a coordinate.

    Attributes:
        step: The first step, up or down.
        choices: Number of choices; 0 of a number.
        start: Where the search starts.
        failures: Steps that were no better, or are not told yet and taken to be none.
    """

    step: float
    choices: int
    start: float
    failures: int = 0

    def next(self, coordinate: float) -> float | None:
        """Where to look next, seen from a coordinate; None if no step is left."""
        if self.choices:
            return self._next_choice()
        while abs(step := self.step * (-0.5) ** self.failures) >= SMALLEST:
            moved = min(max(coordinate + step, 0.0), 1.0)
            if moved != coordinate:
                return moved
            self.failures += 1  # the wall of the cube
        return None

    def _next_choice(self) -> float | None:
        """The middle of a choice that was not tried; steps mean nothing there."""
        tried = 1 + self.failures
        if tried >= self.choices:
            return None
        current = min(int(self.start * self.choices), self.choices - 1)
        return ((current + tried) % self.choices + 0.5) / self.choices


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A point that is under way.

    Attributes:
        point: The point.
        origin: What it was moved from.
        axis: Along what; None of the centre itself.
        failures: The axis' failures when it was made.
    """

    point: Point
    origin: Incumbent
    axis: Axis | None = None
    failures: int = 0


class CoordinateSearch:
    """Moves along one coordinate at a time; the coordinates take turns, in a random order.

    Args:
        settings: Dimension, genes, seed, first step, and the centre, which it asks for first.
    """

    def __init__(self, settings: StrategySettings) -> None:
        rng = np.random.default_rng(settings.seed)
        centre = settings.centre or (0.5,) * settings.dimension
        choices = [len(gene.choices) for gene in settings.genes] or [0] * settings.dimension
        self._turns: deque[int] = deque(rng.permutation(settings.dimension).tolist())
        self._axes = [
            Axis(step=sign * (settings.step or STEP), choices=count, start=start)
            for sign, count, start in zip(
                rng.choice([-1.0, 1.0], settings.dimension).tolist(), choices, centre, strict=True
            )
        ]
        self._best = Incumbent(centre)
        self._asked: deque[Move] = deque()
        self._first: Move | None = Move(point=centre, origin=self._best)

    def ask(self, count: int) -> list[Point]:
        """Propose points, fewer than asked for where no step is left.

        Raises:
            Finished: No step is left, and nothing is under way.
        """
        moves = [move for _ in range(count) if (move := self._next_move())]
        self._asked += moves
        if not self._asked:
            raise Finished("no step along a coordinate is better")
        return [move.point for move in moves]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        for result in results:
            move = self._asked.popleft()
            if result.fitness is None:
                continue
            if move.axis is None:
                move.origin.fitness = result.fitness
            elif result.fitness > move.origin.fitness and not move.axis.choices:
                # Another move may have been better still; this step is then taken again.
                move.axis.failures = move.failures
            if result.fitness > self._best.fitness:
                self._best = Incumbent(move.point, result.fitness)

    def _next_move(self) -> Move | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        for _ in self._axes:
            index = self._turns[0]
            self._turns.rotate(-1)
            axis, point = self._axes[index], self._best.point
            moved = axis.next(point[index])
            if moved is not None:
                failures, axis.failures = axis.failures, axis.failures + 1
                return Move(
                    point=(*point[:index], moved, *point[index + 1 :]),
                    origin=self._best,
                    axis=axis,
                    failures=failures,
                )
        return None
