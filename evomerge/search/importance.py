"""Which genes the fitness of the candidates known so far depended on.

Fitness is fitted as a sum of one quadratic per gene: ridge regression, its strength chosen by
generalised cross-validation (Golub, Heath and Wahba, Technometrics 21, 1979). A gene's share is
the variance of its quadratic among the candidates, as a part of that of all: the first-order
terms of a functional analysis of variance (Hooker, JCGS 16, 2007). A gene that was hardly varied
shows little, whatever it could do. Intervals are from fits to random halves of the candidates
(the delete-d jackknife: Shao and Wu, Annals of Statistics 17, 1989; a bootstrap would have some of
them twice, and mistake that for a good fit). The noise floor is what the most important of the
genes gets when fitness is dealt out to the candidates by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = npt.NDArray[np.float64]

FEWEST = 20
"""Candidates that have to be known."""

RESAMPLES = 200
PENALTIES = np.geomspace(1e-3, 1e3, 13)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How much of the fitted variance something explains.

    Attributes:
        value: The share, from 0 to 1.
        low: Lower end of its 95 % interval.
        high: Upper end.
        matters: Whether all of the interval lies above the noise.
    """

    value: float
    low: float
    high: float
    matters: bool


def shares(
    points: Array, fitness: Array, groups: Mapping[str, Array], *, seed: int = 0
) -> dict[str, list[Share]]:
    """Shares of groups of genes.

    Args:
        points: Shape `(N, D)`.
        fitness: Shape `(N,)`.
        groups: Membership of genes in groups, shape `(G, D)` each.
        seed: Seeds resampling.

    Returns:
        For each array of groups, a share per group.
    """
    rng = np.random.default_rng(seed)
    count = len(fitness)
    value = fit(points, fitness)[1]
    halves = [rng.permutation(count)[: count // 2] for _ in range(RESAMPLES)]
    of_halves = np.array([fit(points[half], fitness[half])[1] for half in halves])
    dealt = np.array([fit(points, rng.permutation(fitness))[1] for _ in range(RESAMPLES)])
    found = {}
    for name, members in groups.items():
        # Half of the candidates left out: the estimates vary among themselves as that of all does.
        off = of_halves @ members.T
        off -= off.mean(axis=0)
        low, high = np.clip(members @ value + np.quantile(off, [0.025, 0.975], axis=0), 0.0, 1.0)
        floor = np.quantile((dealt @ members.T).max(axis=1), 0.95)
        found[name] = [
            Share(value=float(v), low=float(a), high=float(b), matters=bool(a > floor))
            for v, a, b in zip(members @ value, low, high, strict=True)
        ]
    return found


def fit(points: Array, fitness: Array) -> tuple[float, Array]:
    """Fit a sum of quadratics, one per gene.

    Args:
        points: Shape `(N, D)`.
        fitness: Shape `(N,)`.

    Returns:
        Share of the fitness's variance that the fit explains, and of that, each gene's part of
        all: shape `(D,)`, with that sum.
    """
    count, genes = points.shape
    spread = points.std(axis=0)
    scaled = (points - points.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    features = np.concatenate([scaled, scaled**2], axis=1)
    features -= features.mean(axis=0)
    centred = fitness - fitness.mean()
    total = float(centred @ centred)
    if total <= 0:
        return 0.0, np.zeros(genes)
    left, sizes, right = np.linalg.svd(features, full_matrices=False)
    turned = left.T @ centred
    kept = sizes**2 / (sizes**2 + count * PENALTIES[:, None])
    errors = ((left @ (kept * turned).T - centred[:, None]) ** 2).sum(axis=0)
    scores = errors / (1 - np.minimum(kept.sum(axis=1) / count, 0.99)) ** 2
    best = kept[int(scores.argmin())]
    weights = right.T @ (best * turned / np.where(sizes > 1e-12, sizes, np.inf))
    parts = features[:, :genes] * weights[:genes] + features[:, genes:] * weights[genes:]
    variances = parts.var(axis=0)
    explained = 1 - float(errors[int(scores.argmin())]) / total
    return explained, explained * variances / max(float(variances.sum()), 1e-300)
