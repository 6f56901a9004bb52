"""Crossover and mutation of points of the unit cube, for genetic strategies.

Simulated binary crossover: Deb and Agrawal, "Simulated binary crossover for continuous search
space", Complex Systems 1995, with Deb's bounds. Polynomial mutation: Deb and Goyal, "A combined
genetic adaptive search for engineering design", 1996, with the bounds of NSGA-II. The greater the
index `eta`, the nearer children stay to their parents. Where a step is given it is the standard
deviation of a mutation, and `eta` follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Coordinates: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Step: TypeAlias = float | Coordinates
Mutation: TypeAlias = Callable[[Coordinates, Step, np.random.Generator], Coordinates]
"""Moves every coordinate of a point, shape `(D,)`, by a step: one for all, or one for each."""

SAME = 1e-12
"""Coordinates nearer than this have nothing to cross."""


def crossed(
    first: Coordinates,
    second: Coordinates,
    rng: np.random.Generator,
    *,
    eta: float,
    choices: Mask | None = None,
) -> Coordinates:
    """One child of simulated binary crossover, shape `(D,)`; about half of it is `first`'s.

    Coordinates that are `choices`, shape `(D,)`, come from either parent as they are.
    """
    lower, upper = simulated_binary(first, second, rng.random(first.shape), eta=eta)
    child = np.where(rng.random(first.shape) < 0.5, lower, upper)
    if choices is not None:
        child = np.where(choices, second, child)
    apart = np.abs(first - second) > SAME
    return np.where(apart & (rng.random(first.shape) < 0.5), child, first)


def mutated(
    point: Coordinates, rng: np.random.Generator, *, eta: float, choices: Mask | None = None
) -> Coordinates:
    """Polynomial mutation of each coordinate with probability 1 / D, shape `(D,)`.

    At least one coordinate is mutated: a copy of a parent would be an evaluation wasted. Those
    that are `choices`, shape `(D,)`, are drawn anew.
    """
    chosen = rng.random(point.shape) < 1 / point.size
    chosen[rng.integers(point.size)] |= not chosen.any()
    moved = polynomial(point, rng.random(point.shape), eta=eta)
    return np.where(chosen, redrawn(moved, choices, rng), point)


def redrawn(point: Coordinates, choices: Mask | None, rng: np.random.Generator) -> Coordinates:
    """The point with its choices drawn anew, shape `(D,)`: none is nearer than the others."""
    if choices is None or not choices.any():
        return point
    return np.where(choices, rng.random(point.shape), point)


def simulated_binary(
    first: Coordinates, second: Coordinates, draws: Coordinates, *, eta: float
) -> tuple[Coordinates, Coordinates]:
    """The lower and the upper child of every coordinate.

    Args:
        first: One parent, shape `(D,)`.
        second: The other.
        draws: Uniform numbers in [0, 1), shape `(D,)`.
        eta: Distribution index.
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    gap = np.maximum(high - low, SAME)
    middle = (first + second) / 2
    lower = middle - _spread(draws, 1 + 2 * low / gap, eta) * gap / 2
    upper = middle + _spread(draws, 1 + 2 * (1 - high) / gap, eta) * gap / 2
    return np.clip(lower, 0.0, 1.0), np.clip(upper, 0.0, 1.0)


def gaussian(point: Coordinates, step: Step, rng: np.random.Generator) -> Coordinates:
    """Normal noise on every coordinate, shape `(D,)`; it may leave the cube."""
    moved: Coordinates = point + step * rng.normal(size=point.shape)
    return moved


def polynomial_step(point: Coordinates, step: Step, rng: np.random.Generator) -> Coordinates:
    """Polynomial mutation of every coordinate, shape `(D,)`; walls shorten the step near them."""
    return polynomial(point, rng.random(point.shape), eta=index_of(step))


def index_of(step: Step) -> Coordinates:
    """The index `eta` at which a mutation without walls has a standard deviation.

    Its density is `(eta + 1) (1 - |d|)^eta / 2`, whose variance is `2 / ((eta + 2) (eta + 3))`.
    The least index is 0, where all distances up to 1 are equally likely: no step is longer.
    """
    index: Coordinates = np.maximum(np.sqrt(0.25 + 2 / np.square(step)) - 2.5, 0.0)
    return index


def polynomial(point: Coordinates, draws: Coordinates, *, eta: float | Coordinates) -> Coordinates:
    """The mutant of every coordinate; a draw of 0 gives 0, one half the point, and 1 gives 1.

    Args:
        point: Shape `(D,)`.
        draws: Uniform numbers in [0, 1), shape `(D,)`.
        eta: Distribution index, one for all or one for each.
    """
    power = eta + 1
    down = (2 * draws + (1 - 2 * draws) * (1 - point) ** power).clip(0.0) ** (1 / power) - 1
    up = 1 - (2 * (1 - draws) + (2 * draws - 1) * point**power).clip(0.0) ** (1 / power)
    mutant: Coordinates = np.clip(point + np.where(draws < 0.5, down, up), 0.0, 1.0)
    return mutant


def _spread(draws: Coordinates, farthest: Coordinates, eta: float) -> Coordinates:
    """How far the children are apart, in distances of the parents; at most `farthest`."""
    power = eta + 1
    scaled = draws * (2 - farthest**-power)
    spread: Coordinates = np.where(scaled <= 1, scaled, 1 / (2 - scaled)) ** (1 / power)
    return spread
