"""What the store holds, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.evaluation.scores.outcome import Evaluated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evomerge.evaluation.scores.objective import Objective
    from evomerge.evaluation.scores.outcome import Outcome, TaskScore
    from evomerge.genome.baselines import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A merge recipe that was asked for.

    Attributes:
        number: Order of asking, from 0.
        digest: Digest of its recipe: its identity.
        kind: What it is.
        name: What it is called in tables; None for offspring.
        generation: The generation it was asked in; 0 is the starting one.
        genotype: The point of the unit cube it stands for; None outside the genome.
        recipe: Its merge recipe as JSON.
        parents: Digests of the candidates it was made from.
    """

    number: int
    digest: str
    kind: Kind
    name: str | None
    generation: int
    genotype: tuple[float, ...] | None
    recipe: str
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A candidate and what became of it.

    Attributes:
        candidate: The candidate.
        outcome: Its outcome on search items; None while it is not known.
        fitness: What the strategy was told; None unless it was evaluated.
        held_out: Its scores on held-out items, for the few that were compared there.
        confirmed: Its scores on all search and confirm items, if it was a finalist.
    """

    candidate: Candidate
    outcome: Outcome | None
    fitness: float | None
    held_out: tuple[TaskScore, ...] = ()
    confirmed: tuple[TaskScore, ...] = ()

    @property
    def whole(self) -> tuple[TaskScore, ...]:
        """Its scores on all search items at least; empty if it has none."""
        return self.confirmed or self.searched

    @property
    def searched(self) -> tuple[TaskScore, ...]:
        """Its scores on all search items, as the search saw them; empty if it has none."""
        if not isinstance(self.outcome, Evaluated) or self.outcome.share < 1:
            return ()
        return self.outcome.scores

    def search_score(self, objective: Objective) -> float | None:
        """Its fitness on all search items; what was estimated of it if it was stopped."""
        return objective.fitness(self.whole) if self.whole else self.fitness


def scores_of_sources(entries: Iterable[Entry]) -> list[tuple[TaskScore, ...]]:
    """What the sources scored on the search items."""
    return [e.searched for e in entries if e.candidate.kind == "source" and e.searched]
