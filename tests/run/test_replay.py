"""Promise: whatever the strategy, a search that is cut at any event goes on as it would have."""

from __future__ import annotations

import functools
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from planted import AnyOrder, PlantedExecutor
from planted_models import (
    LAYERS,
    either_way,
    every_strategy,
    file_in_memory,
    landscape,
    loop_over_models,
    some_fail,
    strategy_for_models,
)

from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.recipe.merge import MergeRecipe
from evomerge.search.niches import M2N2, WARM_UP
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy
    from evomerge.store.records import Candidate, Entry

CANDIDATES, GENERATION, EVENTS = 60, 6, 60


class Copied(RunStore):
    """A store that keeps copies of itself: what a crash would leave.

    Attributes:
        copies: The store after no event, after one, and so on up to `EVENTS`.
        asked: What was asked for, after how many events.
    """

    def __init__(self) -> None:
        self._file, self._events = file_in_memory(), 0
        super().__init__(self._file)
        self.copies: list[sqlite3.Connection] = []
        self.asked: list[tuple[int, list[Candidate]]] = []
        self._copy()

    def add_candidates(self, candidates: Iterable[Candidate]) -> None:
        if new := list(candidates):
            self.asked.append((self._events, new))
            super().add_candidates(new)
            self._events += 1
            self._copy()

    def add_outcome(self, number: int, outcome: Outcome, fitness: float | None) -> None:
        super().add_outcome(number, outcome, fitness)
        self._events += 1
        self._copy()

    def _copy(self) -> None:
        if self._events <= EVENTS:
            self.copies.append(file_in_memory(tables=False))
            self._file.backup(self.copies[-1])

    def asked_after(self, events: int) -> list[Candidate]:
        """What is asked for next after some events; nothing at the end."""
        return next((new for before, new in self.asked if before >= events), [])


@dataclass(frozen=True)
class Search:
    """A whole search, with some failures."""

    store: Copied
    strategy: Strategy
    entries: list[Entry]

    @property
    def recipes(self) -> list[MergeRecipe]:
        """Of the candidates that a cut search goes on from, and of the next ones."""
        asked = [new for before, new in self.store.asked if before <= EVENTS]
        return [MergeRecipe.model_validate_json(c.recipe) for new in asked for c in new]

    @property
    def items(self) -> NDArray[np.float64]:
        """Shape `(candidates, items)`, without those that failed."""
        outcomes = [e.outcome for e in self.entries if isinstance(e.outcome, Evaluated)]
        return np.array([[i for score in each.scores for i in score.items] for each in outcomes])


@functools.cache
def whole(name: StrategyName, *, steady: bool) -> Search:
    store, strategy = Copied(), strategy_for_models(name, GENERATION)
    executor = AnyOrder(score=landscape, fails=some_fail)
    loop_over_models(strategy, store, executor).run(CANDIDATES, GENERATION, steady=steady)
    return Search(store, strategy, store.entries())


class Asked(Exception):  # noqa: N818 (it is what is waited for)
    """More candidates were asked for."""


class UntilAsked(RunStore):
    """Takes outcomes, and no more candidates."""

    def add_candidates(self, candidates: Iterable[Candidate]) -> None:
        if new := list(candidates):
            raise Asked(new)


@dataclass
class Known(PlantedExecutor):
    """Does again what was done in a whole search."""

    entries: Sequence[Entry] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            outcome = self.entries[job.number].outcome
            assert outcome is not None
            yield job, outcome


def asked_next(
    name: StrategyName, copy: sqlite3.Connection, search: Search, *, steady: bool
) -> list[Candidate]:
    """What a new process asks for that finds the copy of a store."""
    loop = loop_over_models(
        strategy_for_models(name, GENERATION), UntilAsked(copy), Known(entries=search.entries)
    )
    try:
        loop.run(CANDIDATES, GENERATION, steady=steady)
    except Asked as asked:
        found: list[Candidate] = asked.args[0]
        return found
    return []


@pytest.mark.slow
@either_way
@every_strategy
def test_a_search_that_is_cut_at_any_event_asks_for_the_same_candidates_next(
    name: StrategyName, steady: bool
) -> None:
    search = whole(name, steady=steady)
    for events, copy in enumerate(search.store.copies):
        with closing(copy):  # which frees its memory
            found = asked_next(name, copy, search, steady=steady)
        assert found == search.store.asked_after(events), events


@either_way
@pytest.mark.parametrize("name", ["Evolver", "EvolverMean", "EvolverTIES"])
def test_before_the_last_cut_children_of_children_take_part(
    name: StrategyName, steady: bool
) -> None:
    assert max(recipe.depth for recipe in whole(name, steady=steady).recipes) >= 3


@either_way
def test_before_the_last_cut_averages_of_averages_take_part(steady: bool) -> None:
    weights = [
        {source.parameters.get("weight") for source in recipe.sources}
        for recipe in whole("Kinship", steady=steady).recipes
    ]
    assert any(0.125 in each for each in weights)  # a half of a half of a half


@either_way
def test_in_the_end_children_make_up_the_archive_of_niches(steady: bool) -> None:
    search = whole("M2N2", steady=steady)
    assert isinstance(search.strategy, M2N2)
    asked = [e.candidate.genotype for e in search.entries if e.candidate.generation > 0]
    # While some of the first fail or are under way, more are drawn at random.
    children = {*asked[WARM_UP + 2 * GENERATION :]}
    assert len(children.intersection(search.strategy._archive.members)) >= 3


def test_the_tasks_disagree_and_their_items_differ() -> None:
    items = whole("random", steady=False).items
    left, right = items[:, :LAYERS], items[:, LAYERS:]
    assert np.corrcoef(left.mean(1), right.mean(1))[0, 1] < 0.8
    assert left.mean(1).argmax() != right.mean(1).argmax()
    for of_task in (left, right):
        assert (np.corrcoef(of_task.T) - np.eye(LAYERS)).max() < 0.9


@either_way
@every_strategy
def test_the_order_in_which_candidates_are_done_changes_nothing(
    name: StrategyName, steady: bool
) -> None:
    executor = AnyOrder(seed=1, score=landscape, fails=some_fail)
    store = RunStore(file_in_memory())
    loop = loop_over_models(strategy_for_models(name, GENERATION), store, executor)
    loop.run(CANDIDATES, GENERATION, steady=steady)
    assert store.entries() == whole(name, steady=steady).entries
