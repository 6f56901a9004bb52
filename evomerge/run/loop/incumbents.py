"""The best candidates so far, and their middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.genome.genome import Genome
    from evomerge.search.contract import Point
    from evomerge.store.records import Entry

ELITES = 8
"""Number of the best points that a local search starts from the mean of."""


def ranked(entries: Iterable[Entry], objective: Objective) -> list[Entry]:
    """Candidates by what is known of them, the best first, equal ones in order of asking."""
    scores = [(entry.search_score(objective), entry) for entry in entries]
    known = [(score, entry) for score, entry in scores if score is not None]
    known.sort(key=lambda each: each[0], reverse=True)
    return [entry for _, entry in known]


def of_one_operator(elites: Sequence[Entry], genome: Genome) -> list[Entry]:
    """Those with the most frequent operator: coefficients for another one are no coefficients."""
    operators = [genome.operator(entry.candidate.genotype or ()) for entry in elites]
    usual = max(operators, key=operators.count, default=None)
    return [entry for entry, name in zip(elites, operators, strict=True) if name == usual]


def middle_of_elites(entries: Iterable[Entry], genome: Genome) -> Point | None:
    """The mean of the best points; None if none was scored on all search items.

    The best of them was lucky on these items, and what is found around it has the same luck: on
    planted landscapes a search around their mean found more (benchmarks/LOG.md).

    Args:
        entries: Candidates, in order of asking. Only what the search saw of them counts, so that
            a search that goes on after its end starts from the same point.
        genome: The genome of the points.
    """
    known: dict[str, tuple[float, Entry]] = {}
    for entry in entries:
        if entry.searched and entry.candidate.genotype and entry.fitness is not None:
            known.setdefault(entry.candidate.digest, (entry.fitness, entry))
    best = sorted(known.values(), key=lambda each: each[0], reverse=True)[:ELITES]
    elites = of_one_operator([entry for _, entry in best], genome)
    points = [entry.candidate.genotype for entry in elites if entry.candidate.genotype]
    return genome.mean(points) if points else None
