"""The Pareto front of a run: the candidates that no other is better than on every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import NoCandidateError
from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.reporting.leaderboard import read_objective, short_id
from evomerge.search.pareto import hypervolume, pareto_front

if TYPE_CHECKING:
    from evomerge.store.database import RunStore
    from evomerge.store.records import Entry

VERSION = 1
"""Version of the document that `front` gives. Fields may be added, never changed."""


def front(store: RunStore) -> dict[str, Any]:
    """The Pareto front of a run as a JSON document.

    Only candidates that were scored on all search items can be compared on each task. The
    hypervolume is that above the base's scores; it is absent if the base has none.

    Raises:
        NoCandidateError: No candidate was scored on all search items.
    """
    objective = read_objective(store)
    distinct = {entry.candidate.digest: entry for entry in reversed(store.entries())}
    known = [entry for entry in reversed(distinct.values()) if entry.whole]
    if not known:
        raise NoCandidateError("no candidate was scored on all search items")
    signs = objective.signs
    tasks = [score.task for score in known[0].whole]
    scores = np.array([[signs[s.task] * s.score for s in entry.whole] for entry in known])
    found = [known[index] for index in pareto_front(scores)]
    found.sort(key=lambda entry: -objective.fitness(entry.whole))
    base = next((row for row, e in zip(scores, known, strict=True) if _is(e, "base")), None)
    sources = scores[[_is(entry, "source") for entry in known]]
    return {
        "version": VERSION,
        "tasks": tasks,
        "candidates": [
            {
                "candidate": short_id(entry.candidate.digest),
                "kind": entry.candidate.kind,
                "name": entry.candidate.name,
                "generation": entry.candidate.generation,
                "search_score": objective.fitness(entry.whole),
                "scores": {score.task: score.score for score in entry.whole},
            }
            for entry in found
        ],
        "compared": len(known),
        "stopped": sum(
            isinstance(entry.outcome, Evaluated) and not entry.whole for entry in distinct.values()
        ),
        "hypervolume": None if base is None else hypervolume(scores, base),
        "hypervolume_of_sources": None if base is None else hypervolume(sources, base),
    }


def _is(entry: Entry, kind: str) -> bool:
    return entry.candidate.kind == kind
