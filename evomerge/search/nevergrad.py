"""Optimisers of nevergrad behind our ask and tell.

Only optimisers that are deterministic under replay and that work with numpy 2.3 are let in.
nevergrad minimises; the sign is turned here and nowhere else.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.search.contract import StrategySettings
from evomerge.search.trial import GENERATION, try_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evomerge.search.contract import Point, Result

ALLOWED = ("CMA", "DiagonalCMA", "DE", "TwoPointsDE", "PSO", "OnePlusOne")

LEAST_DIMENSION = 2
"""nevergrad's CMA needs two coordinates; a search over one carries an idle second one along."""

WORST_MARGIN = 1.0
"""How far below the worst fitness seen a failed point is told."""

MIRRORED = {"CMA_mirrors": 0.5}
"""Has cma mirror the worst sixth of each generation at the mean in the next one (Auger, Brockhoff,
Hansen, "Mirrored Sampling in Evolution Strategies With Weighted Recombination", 2011): on planted
landscapes that found the same in fewer evaluations. 0.5 asks for cma's own share."""


TRIAL = StrategySettings(dimension=20, generation=GENERATION, seed=0)


class NevergradStrategy:
    """One of nevergrad's optimisers.

    A failed point is told as a little worse than the worst point so far: nevergrad has no notion
    of failure, and an infinite loss would break its statistics. While every point has failed,
    nobody knows how bad that is, so they are told later.

    Args:
        name: One of `ALLOWED`.
        settings: Dimension, generation, seed, first step and centre.

    Raises:
        VersionError: The optimiser does not work as installed.
    """

    def __init__(self, name: str, settings: StrategySettings) -> None:
        _try_out(name)
        self._optimizer = _build(name, settings)
        self._dimension = settings.dimension
        self._asked: deque[Any] = deque()
        self._failed: list[Any] = []
        self._worst = math.inf

    def ask(self, count: int) -> list[Point]:
        """Propose points."""
        asked = [self._optimizer.ask() for _ in range(count)]
        self._asked += asked
        points = [np.clip(candidate.value, 0.0, 1.0).tolist() for candidate in asked]
        return [tuple(point[: self._dimension]) for point in points]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what became of the oldest points that were not told yet, in order of asking."""
        pairs = [(self._asked.popleft(), result.fitness) for result in results]
        known = [(candidate, value) for candidate, value in pairs if value is not None]
        self._failed += [candidate for candidate, value in pairs if value is None]
        self._worst = min([self._worst, *(value for _, value in known)])
        if math.isfinite(self._worst):
            known += [(candidate, self._worst - WORST_MARGIN) for candidate in self._failed]
            self._failed = []
        with warnings.catch_warnings():
            # cma misses points it proposed itself, because nevergrad rounds them on the way.
            warnings.simplefilter("ignore")
            for candidate, value in known:
                self._optimizer.tell(candidate, -value)


def default_step(dimension: int) -> float:
    """The first step that worked best by dimension in our measurements (benchmarks/LOG.md)."""
    return 0.14 if dimension <= 100 else 0.05


@cache
def _try_out(name: str) -> None:
    try_out(name, "nevergrad", partial(_build, name, TRIAL), TRIAL.dimension)


def _build(name: str, settings: StrategySettings) -> Any:
    # Both take seconds to import, and nevergrad would import cma in the middle of a search. It
    # warns that it has no matplotlib, which nobody asked for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nevergrad as ng
        from cma.sigma_adaptation import CMAAdaptSigmaCSA

    step = settings.step or default_step(settings.dimension)
    dimension = max(settings.dimension, LEAST_DIMENSION)
    # Checking the bounds, it draws a seed from the global generator, which is the caller's.
    callers = np.random.get_state()  # noqa: NPY002 (the global one is meant)
    space = ng.p.Array(shape=(dimension,), lower=0.0, upper=1.0)
    np.random.set_state(callers)  # noqa: NPY002
    if settings.centre is not None:
        idle = [0.5] * (dimension - settings.dimension)
        space.value = np.array([*settings.centre, *idle])
    space.set_mutation(sigma=_sigma(name, step, dimension))
    # The legacy generator is the one that nevergrad's parameters take.
    space.random_state = np.random.RandomState(settings.seed)
    generation = settings.generation
    match name:
        case "CMA" | "DiagonalCMA":
            # From 300 dimensions on cma would adapt the step in a way that cannot go on after a
            # generation that was cut short, as the last one of a search is.
            options = {**MIRRORED, "AdaptSigma": CMAAdaptSigmaCSA}
            # A population that the batch does not divide wastes evaluations, silently.
            family = ng.families.ParametrizedCMA(
                popsize=max(generation, 4), diagonal=name == "DiagonalCMA", inopts=options
            )
        case "DE" | "TwoPointsDE":
            crossover = "twopoints" if name == "TwoPointsDE" else 0.5
            family = ng.families.DifferentialEvolution(
                popsize=max(generation, 8), crossover=crossover
            )
        case "PSO":
            family = ng.families.ConfPSO(popsize=max(generation, 4))
        case "OnePlusOne":
            family = ng.families.ParametrizedOnePlusOne()
        case _:
            raise AssertionError(f"{name} is not in the allow-list")
    return family(parametrization=space, budget=None, num_workers=generation)


def _sigma(name: str, step: float, dimension: int) -> float:
    """The sigma that makes nevergrad's first points have the standard deviation `step`.

    Its CMA scales sigma by 0.3 on a bounded array, and by 0.15 from 18 dimensions on.
    """
    if not name.endswith("CMA"):
        return step
    return step / (0.15 if dimension >= 18 else 0.3)
