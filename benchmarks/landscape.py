"""A planted merging landscape: what is searched is known, and an evaluation costs microseconds.

A candidate is a point of weights, one for each source and group of layers. Its ability is a
concave quadratic around a planted optimum, with curvatures that fall by a power law, so that a few
weights matter much and most little; rotated, it is mixtures of weights that matter. An item is
solved if the ability exceeds its difficulty, but for a smooth term of its own: the same candidate
always gives the same answers, and near ones nearly the same. Items come in random order.

The optimum solves 67 % of many items and the middle of the cube 36 %. With two sources the middle
is their uniform average, so that all searches start from the same point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evomerge.genome.genes import Gene

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[np.float64]

SEARCH_ITEMS, CONFIRM_ITEMS, HELD_OUT_ITEMS = 100, 400, 3000

SPREAD_OF_DISCRIMINATION = 0.3
OWN_TERM = 0.5
"""Standard deviation of an item's own term, in units of the difficulties' standard deviation: far
candidates of equal ability then differ on a fifth of the items, as real merges do."""
FREQUENCY = 6.0
"""Candidates that are 0.1 apart in every weight have own terms that correlate by 0.83."""
WAVES = 2
START, OPTIMUM = -0.409, 0.502
"""Abilities at which 36 % and 67 % of many items are solved."""
DECAY = 1.2
"""Exponent of the power law of the curvatures."""
REACH = 0.25
"""Part of the depth over which smooth optima change: the length of a Gaussian kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Which landscapes are searched.

    Attributes:
        dimension: Number of weights.
        rotated: Whether mixtures of weights matter, instead of weights.
        sources: Number of sources; it divides the dimension.
        smooth: Whether a source's best weights vary smoothly with depth, instead of independently.
    """

    dimension: int
    rotated: bool = False
    sources: int = 2
    smooth: bool = False

    def __str__(self) -> str:
        kinds = [" rotated"] * self.rotated + [" smooth"] * self.smooth
        name = f"{self.dimension}{''.join(kinds)}"
        return name if self.sources == 2 else f"{name}, {self.sources} sources"


SETTINGS = tuple(Setting(dimension=d, rotated=r) for r in (False, True) for d in (8, 24, 96))
SMOOTH = tuple(replace(each, smooth=True) for each in SETTINGS if each.dimension > 8)
"""Settings that are searched only when they are named."""


class Landscape:
    """One landscape; setting and seed say which.

    Args:
        setting: Its size and kind.
        seed: Draws optimum, curvatures, rotation and items.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, dimension = setting, setting.dimension
        rng = np.random.default_rng([dimension, setting.rotated, setting.sources, seed])
        self._optimum = _smooth(setting, rng) if setting.smooth else rng.uniform(size=dimension)
        curvature = rng.permutation(np.arange(1, dimension + 1) ** -DECAY)
        axes = np.eye(dimension)
        if setting.rotated:
            axes, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
        self._axes = axes * np.sqrt(curvature)
        away = ((0.5 - self._optimum) @ self._axes) ** 2
        self._axes *= np.sqrt((OPTIMUM - START) / away.sum())
        items = SEARCH_ITEMS + CONFIRM_ITEMS + HELD_OUT_ITEMS
        self._difficulty = rng.normal(size=items)
        discrimination = np.exp(SPREAD_OF_DISCRIMINATION * rng.normal(size=items))
        self._amplitude = OWN_TERM * np.sqrt(2 / WAVES) / discrimination
        spread = FREQUENCY / np.sqrt(dimension)
        self._waves = rng.normal(scale=spread, size=(items, WAVES, dimension)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, size=(items, WAVES)).astype(np.float32)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What each coordinate drives, in the order of our genomes."""
        groups = self.setting.dimension // self.setting.sources
        return tuple(
            Gene(parameter="weight", source=source, group=group, component=None, low=0, high=1)
            for source in range(self.setting.sources)
            for group in range(groups)
        )

    @property
    def curvature(self) -> Array:
        """How much depends on each weight: the curvature along it."""
        along: Array = (self._axes**2).sum(axis=1)
        return along

    def starting_points(self) -> Array:
        """The candidates that our searches start from: base, sources, average, arithmetic."""
        sources, dimension = self.setting.sources, self.setting.dimension
        alone = np.repeat(np.eye(sources), dimension // sources, axis=1)
        shares = (1 / sources, 0.3, 1 / sources)
        return np.vstack([np.zeros(dimension), alone, *(np.full(dimension, s) for s in shares)])

    def ability(self, points: Array) -> Array:
        """What decides how many items a candidate solves."""
        away: Array = (((points - self._optimum) @ self._axes) ** 2).sum(axis=1)
        return OPTIMUM - away

    def search(self, points: Array | Sequence[Sequence[float]]) -> Array:
        """Which search items each point solves, as zeros and ones."""
        return self._solved(np.asarray(points), slice(0, SEARCH_ITEMS))

    def confirm(self, points: Array, count: int) -> Array:
        """Which of the first confirm items each point solves."""
        return self._solved(points, slice(SEARCH_ITEMS, SEARCH_ITEMS + count))

    def held_out(self, point: Array) -> float:
        """The share of the held-out items that a point solves."""
        return float(self._solved(point[None], slice(SEARCH_ITEMS + CONFIRM_ITEMS, None)).mean())

    def _solved(self, points: Array, items: slice) -> Array:
        angles = np.tensordot(points.astype(np.float32), self._waves[items], axes=(1, 2))
        own = self._amplitude[items] * np.cos(angles + self._phases[items]).sum(axis=2)
        solved = self.ability(points)[:, None] + own > self._difficulty[items]
        return np.asarray(solved, dtype=np.float64)


def _smooth(setting: Setting, rng: np.random.Generator) -> Array:
    """Best weights that vary smoothly with depth, each evenly distributed on [0, 1]."""
    groups = setting.dimension // setting.sources
    depth = np.arange(groups) / groups
    kernel = np.exp(-0.5 * ((depth[:, None] - depth) / REACH) ** 2)
    # The jitter makes positive definite what rounding does not leave so.
    root = np.linalg.cholesky(kernel + 1e-9 * np.eye(groups))
    draws = rng.normal(size=(setting.sources, groups)) @ root.T
    return np.array([NormalDist().cdf(draw) for draw in draws.ravel()])
