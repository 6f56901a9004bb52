"""Promise: a search evaluates its budget, each candidate once, or says why it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import AnyOrder
from planted_models import (
    STARTING,
    either_way,
    every_strategy,
    file_in_memory,
    landscape,
    loop_over_models,
    some_fail,
    strategy_for_models,
)

from evomerge.errors import NoCandidateError
from evomerge.run.loop.course import FEWEST
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.recipe.search import StrategyName

GENERATION, CANDIDATES = 5, 35
LOST = range(len(STARTING) + 3 * GENERATION, len(STARTING) + 4 * GENERATION)


@pytest.mark.slow
@every_strategy
@given(
    candidates=st.integers(1, 45),
    more=st.integers(0, 12),
    generation=st.integers(1, 11),
    steady=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=5)
def test_every_candidate_of_the_budget_is_evaluated_once(
    name: StrategyName, candidates: int, more: int, generation: int, steady: bool, seed: int
) -> None:
    store = RunStore(file_in_memory())
    evaluated: list[str] = []
    for budget in (candidates, candidates + more):
        executor = AnyOrder(score=landscape, fails=some_fail, seed=seed)
        loop = loop_over_models(strategy_for_models(name, generation), store, executor)
        reason = loop.run(budget, generation, steady=steady)
        entries = store.entries()
        assert [e.candidate.number for e in entries] == [*range(len(entries))]
        assert reason is None or name == "Kinship"  # which may have tried all that it would
        assert len(entries) == max(budget, len(STARTING)) or reason
        assert all(entry.outcome for entry in entries)
        evaluated += [job.recipe.digest for job in executor.jobs]
        assert len(evaluated) == len({*evaluated})
        assert {*evaluated} == {entry.candidate.digest for entry in entries}
        assert executor.most <= max(generation, len(STARTING))


@either_way
@every_strategy
def test_a_search_in_which_everything_fails_neither_crashes_nor_stalls(
    name: StrategyName, steady: bool
) -> None:
    executor = AnyOrder(score=landscape, fails=lambda recipe: recipe.digest not in STARTING)
    store = RunStore(file_in_memory())
    loop = loop_over_models(strategy_for_models(name, GENERATION), store, executor)
    try:
        reason = loop.run(200, GENERATION, steady=steady)
    except NoCandidateError as error:
        reason = str(error)
    sources = 4
    assert len(store.entries()) <= len(STARTING) + sources + FEWEST + GENERATION
    assert reason is not None
    assert ("failed: planted failure" in reason) != (name == "Kinship"), reason


class OneGenerationFails(AnyOrder):
    """Of the fourth generation nothing comes back."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            self.fails = lambda _, number=job.number: number in LOST
            yield from super().run([job])


@every_strategy
def test_a_search_goes_on_after_a_generation_that_failed_altogether(name: StrategyName) -> None:
    store, executor = RunStore(file_in_memory()), OneGenerationFails(score=landscape)
    loop = loop_over_models(strategy_for_models(name, GENERATION), store, executor)
    loop.run(CANDIDATES, GENERATION)
    entries = store.entries()
    failed = [e.candidate.number for e in entries if e.fitness is None]
    assert failed == [*LOST][: len(entries) - LOST.start]
    assert len(entries) == CANDIDATES or name == "Kinship"
