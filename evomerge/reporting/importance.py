"""Which genes a search's scores depended on: which sources, layers and parts of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import RunError
from evomerge.reporting.leaderboard import read_objective
from evomerge.search.importance import FEWEST, fit, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evomerge.search.importance import Array, Share
    from evomerge.store.database import RunStore

GROUPINGS = ("source", "layers", "component", "parameter")


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
    found = shares(columns, fitness, members)
    explained, _ = fit(columns, fitness)
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


def _chosen(gene: dict[str, Any], coordinates: Array) -> NDArray[np.bool_]:
    """Which candidates made each choice, shape `(choices, N)`."""
    count = len(gene["choices"])
    places = np.minimum((coordinates * count).astype(int), count - 1)
    chosen: NDArray[np.bool_] = places == np.arange(count)[:, None]
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
