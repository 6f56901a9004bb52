"""Which genes a search's scores depended on: which sources, layers and parts of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import RunError
from evomerge.reporting.leaderboard import read_objective
from evomerge.search.importance import FEWEST, fit, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    members = {"gene": np.eye(len(genes))} | {by: of for by, (_, of) in groups.items()}
    found = shares(points, fitness, members)
    explained, _ = fit(points, fitness)
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


def _members(names: Sequence[str]) -> tuple[list[str], Array]:
    distinct = list(dict.fromkeys(names))
    return distinct, np.array([[float(name == each) for name in names] for each in distinct])


def _document(share: Share) -> dict[str, Any]:
    return {"share": share.value, "interval": [share.low, share.high], "matters": share.matters}
