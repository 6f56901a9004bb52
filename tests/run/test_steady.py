"""Promise: a steady search never waits for a generation, and does not depend on who is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from planted import AnyOrder, Crash, PlantedExecutor, planted_search

from evomerge.errors import NoCandidateError

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.recipe.search import StrategyName
    from evomerge.store.records import Entry

CANDIDATES, GENERATION = 60, 5

FIRST = 6
"""Number of starting candidates."""


def run_steadily(
    file: Path, executor: PlantedExecutor, strategy: StrategyName = "CMA", *, steady: bool = True
) -> list[Entry]:
    entries, _ = planted_search(
        file, executor, strategy, candidates=CANDIDATES, generation=GENERATION, steady=steady
    )
    return entries


def test_as_many_as_a_generation_are_under_way_until_the_end(tmp_path: Path) -> None:
    class InOrder(PlantedExecutor):
        """The first to be asked for is the first to be done."""

        def collect(self) -> tuple[Job, Outcome]:
            under_way.append(len(self.waiting))
            self.waiting.append(self.waiting.pop(0))
            return super().collect()

    under_way: list[int] = []
    run_steadily(tmp_path / "s", InOrder())
    assert under_way[FIRST : CANDIDATES - GENERATION] == [GENERATION] * 49


def test_in_generations_workers_wait(tmp_path: Path) -> None:
    executor = AnyOrder()
    run_steadily(tmp_path / "s", executor, steady=False)
    assert executor.most <= max(GENERATION, FIRST)


def test_a_crash_after_any_outcome_of_a_steady_search_changes_nothing(tmp_path: Path) -> None:
    expected = run_steadily(tmp_path / "whole", AnyOrder())
    for crash_after in range(0, CANDIDATES, 7):
        file = tmp_path / f"crash{crash_after}"
        with pytest.raises(Crash):
            run_steadily(file, AnyOrder(crash_after=crash_after, seed=crash_after))
        assert run_steadily(file, AnyOrder(seed=1)) == expected


def test_a_steady_search_in_which_everything_fails_gives_up(tmp_path: Path) -> None:
    executor = PlantedExecutor(fails=lambda recipe: recipe.operator == "task_arithmetic")
    with pytest.raises(NoCandidateError, match="the last 16 candidates failed: planted"):
        run_steadily(tmp_path / "s", executor)
    assert len(executor.jobs) <= FIRST + 16 + GENERATION
