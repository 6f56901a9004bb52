"""First points of a search: a Latin hypercube sample.

M. D. McKay, R. J. Beckman, W. J. Conover, "A Comparison of Three Methods for Selecting Values of
Input Variables in the Analysis of Output from a Computer Code", Technometrics 21, 1979.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from evomerge.search.nevergrad import default_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evomerge.search.contract import StrategySettings


def first_points(
    count: int, settings: StrategySettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw points around the centre, normally distributed and evenly spread.

    Not everywhere, because points that are drawn from all over the cube lie far from anything
    good when there are many coordinates, and few searches are long enough to make up for that.
    Choices have no middle, and are spread evenly; half of them are the centre's if there is one.

    Returns:
        Shape `(count, settings.dimension)`.
    """
    step = settings.step or default_step(settings.dimension)
    normal = NormalDist(0.0, step)
    centre = np.array(settings.centre or [0.5] * settings.dimension)
    # Zero has no quantile; the generator can draw it, though it hardly ever will.
    shares = np.maximum(latin_hypercube(count, settings.dimension, rng), 1e-12)
    quantiles = [[normal.inv_cdf(share) for share in row] for row in shares.tolist()]
    chosen = shares
    if settings.centre is not None:
        chosen = np.where(shares < 0.5, centre, 2 * shares - 1)
    return np.clip(np.where(settings.choices, chosen, centre + quantiles), 0.0, 1.0)


def latin_hypercube(count: int, dimension: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw points of which every coordinate falls once into each of `count` equal parts.

    Returns:
        Shape `(count, dimension)`, in [0, 1).
    """
    parts = rng.permuted(np.tile(np.arange(count)[:, None], dimension), axis=0)
    return (parts + rng.random((count, dimension))) / count
