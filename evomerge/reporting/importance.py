"""Which genes a search's scores depended on: which sources, layers and parts of the model.

Fitness is fitted as a sum of one quadratic per gene: ridge regression, its strength chosen by how
well each candidate is predicted by the others (PRESS: Allen, Technometrics 16, 1974), and that is
what is said to be explained: with more genes than candidates any fit explains those it has seen.
A gene's share is the variance of its quadratic among the candidates, as a part of that of all: the
first-order terms of a functional analysis of variance (Hooker, JCGS 16, 2007). A gene that was
hardly varied shows little, whatever it could do. Intervals are from fits to random halves of the
candidates (the delete-d jackknife: Shao and Wu, Annals of Statistics 17, 1989; a bootstrap would
have some of them twice, and mistake that for a good fit). The noise floor is what the most
important of the genes gets when fitness is dealt out to the candidates by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evomerge.errors import RunError
from evomerge.reporting.leaderboard import read_objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evomerge.store.database import RunStore

Array = npt.NDArray[np.float64]

FEWEST = 20
"""Candidates that have to be known."""

RESAMPLES = 200
PENALTIES = np.geomspace(1e-3, 1e3, 13)
GROUPINGS = ("source", "layers", "component", "parameter")


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


def importance(store: RunStore) -> dict[str, Any]:
    """The importance of a run's genes as a JSON document.

    Raises:
        RunError: Too few candidates are known, or the run is of a version that kept no genes.
    """
    genes: list[dict[str, Any]] | None = store.fact("genes")
    if genes is None:
        raise RunError("this run was made by a version of evomerge that kept no list of its genes")
    objective = read_objective(store)
    known = [
        (entry.candidate.genotype, score)
        for entry in store.entries()
        if entry.candidate.genotype and (score := entry.search_score(objective)) is not None
    ]
    if len(known) < FEWEST:
        raise RunError(f"{len(known)} offspring are known; importance needs at least {FEWEST}")
    points, fitness = np.array([point for point, _ in known]), np.array([s for _, s in known])
    groups = {by: _members([gene[by] for gene in genes]) for by in GROUPINGS}
    columns, owners = _columns(points, genes)
    members = {"gene": owners} | {by: of @ owners for by, (_, of) in groups.items()}
    explained, _ = fit(columns, fitness)
    found = shares(columns, fitness, members)
    genes = [_with_scores(gene, points[:, i], fitness) for i, gene in enumerate(genes)]
    return {
        "candidates": len(known),
        "explained": explained,
        "genes": [gene | _document(each) for gene, each in zip(genes, found["gene"], strict=True)],
        "groups": {
            by: {name: _document(each) for name, each in zip(names, found[by], strict=True)}
            for by, (names, _) in groups.items()
            if len(names) > 1
        },
    }


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
    explained, value = fit(points, fitness)
    # What is told apart from chance are parts of the fit; what is shown are parts of `explained`.
    scale = explained / max(float(value.sum()), 1e-300)
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
            Share(
                value=float(v * scale),
                low=float(a * scale),
                high=float(b * scale),
                matters=bool(explained > 0 and a > floor),
            )
            for v, a, b in zip(members @ value, low, high, strict=True)
        ]
    return found


def fit(points: Array, fitness: Array) -> tuple[float, Array]:
    """Fit a sum of quadratics, one per gene.

    Args:
        points: Shape `(N, D)`.
        fitness: Shape `(N,)`.

    Returns:
        Share of the fitness's variance that is explained by fits to all candidates but the one
        that is predicted, from 0 to 1; and each gene's part of what one fit to all of them
        explains: shape `(D,)`.
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
    errors = centred - (kept * turned) @ left.T
    # Of a linear fit, what the error would be had it not seen the candidate follows from its pull.
    pull = kept @ (left**2).T + 1 / count
    unseen = ((errors / np.maximum(1 - pull, 1e-9)) ** 2).sum(axis=1)
    chosen = int(unseen.argmin())
    best = kept[chosen]
    weights = right.T @ (best * turned / np.where(sizes > 1e-12, sizes, np.inf))
    parts = features[:, :genes] * weights[:genes] + features[:, genes:] * weights[genes:]
    variances = parts.var(axis=0)
    fitted = 1 - float(errors[chosen] @ errors[chosen]) / total
    by_the_mean = total * (count / (count - 1)) ** 2
    explained = max(0.0, 1 - float(unseen[chosen]) / by_the_mean)
    return explained, fitted * variances / max(float(variances.sum()), 1e-300)


def _columns(points: Array, genes: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
    """What the fit sees of points, shape `(N, D)`: choices as contrasts that do not correlate.

    Returns:
        The columns, shape `(N, C)`, and which gene each is of, shape `(D, C)`.
    """
    columns: list[Array] = []
    owners: list[int] = []
    for index, gene in enumerate(genes):
        if "choices" in gene:
            chosen = _chosen(gene, points[:, index]).astype(np.float64)
            chosen -= chosen.mean(axis=1, keepdims=True)
            _, sizes, contrasts = np.linalg.svd(chosen, full_matrices=False)
            found = [*contrasts[: max(1, int((sizes > 1e-9).sum()))]]
        else:
            found = [points[:, index]]
        columns += found
        owners += [index] * len(found)
    return np.array(columns).T, np.eye(len(genes))[:, owners]


def _chosen(gene: dict[str, Any], coordinates: Array) -> npt.NDArray[np.bool_]:
    """Which candidates made each choice, shape `(choices, N)`."""
    count = len(gene["choices"])
    places = np.minimum((coordinates * count).astype(int), count - 1)
    chosen: npt.NDArray[np.bool_] = places == np.arange(count)[:, None]
    return chosen


def _with_scores(gene: dict[str, Any], coordinates: Array, fitness: Array) -> dict[str, Any]:
    """A gene, and of each of its choices what the candidates scored that made it."""
    if "choices" not in gene:
        return gene
    scores = [fitness[who] for who in _chosen(gene, coordinates)]
    return gene | {
        "choices": [
            {
                "choice": name,
                "candidates": len(of),
                "mean": float(of.mean()) if len(of) else None,
                "best": float(of.max()) if len(of) else None,
            }
            for name, of in zip(gene["choices"], scores, strict=True)
        ]
    }


def _members(names: Sequence[str]) -> tuple[list[str], Array]:
    distinct = list(dict.fromkeys(names))
    return distinct, np.array([[float(name == each) for name in names] for each in distinct])


def _document(share: Share) -> dict[str, Any]:
    return {"share": share.value, "interval": [share.low, share.high], "matters": share.matters}
