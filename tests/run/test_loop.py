"""Promise: a search is a function of its seed; a crash at any point changes nothing about it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from planted import OBJECTIVE, Crash, PlantedExecutor, Silent, planted_genome

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.scores.outcome import Failed
from evomerge.run.finish.finalists import best
from evomerge.run.finish.finish import finish_search
from evomerge.run.loop.incumbents import ranked
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.recipe.merge import MergeRecipe
    from evomerge.recipe.search import StrategyName
    from evomerge.store.records import Entry

CANDIDATES, GENERATION = 22, 5


def run_loop(
    file: Path,
    executor: PlantedExecutor,
    *,
    strategy: StrategyName = "CMA",
    seed: int = 3,
    candidates: int = CANDIDATES,
) -> list[Entry]:
    genome = planted_genome()
    settings = StrategySettings(dimension=len(genome.genes), generation=GENERATION, seed=seed)
    store = RunStore.open_for_writing(file) if file.exists() else RunStore.create(file)
    with closing(store):
        loop = SearchLoop(
            genome=genome,
            strategy=build_strategy(strategy, settings),
            objective=OBJECTIVE,
            executor=executor,
            store=store,
            progress=Silent(),
        )
        loop.run(candidates, GENERATION)
        finish_search(store, executor, OBJECTIVE, Silent(), planted_genome())
        return store.entries()


def test_generation_zero_is_base_sources_and_baselines(tmp_path: Path) -> None:
    entries = run_loop(tmp_path / "s", PlantedExecutor(), strategy="random")
    start = [(e.candidate.kind, e.candidate.name) for e in entries if e.candidate.generation == 0]
    assert start == [
        ("base", "base"),
        ("source", "a"),
        ("source", "b"),
        ("baseline", "uniform average"),
        ("baseline", "task arithmetic 0.3"),
        ("baseline", "task arithmetic 0.5"),
    ]


def test_every_candidate_of_the_budget_is_evaluated_once(tmp_path: Path) -> None:
    executor = PlantedExecutor()
    entries = run_loop(tmp_path / "s", executor)
    assert [entry.candidate.name for entry in entries[CANDIDATES:]] == ["elite mean"]
    assert all(entry.fitness is not None for entry in entries)
    searched = [job.number for job in executor.jobs if job.split == "search"]
    assert sorted(searched) == list(range(-1, CANDIDATES))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "CMA", "DE"])
def test_a_crash_after_any_outcome_changes_nothing(tmp_path: Path, strategy: StrategyName) -> None:
    expected = run_loop(tmp_path / "whole", PlantedExecutor(), strategy=strategy)
    for crash_after in range(0, CANDIDATES + 6, 3):
        file = tmp_path / f"crash{crash_after}"
        with pytest.raises(Crash):
            run_loop(file, PlantedExecutor(crash_after=crash_after), strategy=strategy)
        continued = PlantedExecutor()
        assert run_loop(file, continued, strategy=strategy) == expected
        done_again = [job for job in continued.jobs if job.split == "search"]
        assert len(done_again) <= max(0, CANDIDATES + 1 - crash_after)


def test_a_crash_between_two_crashes_changes_nothing(tmp_path: Path) -> None:
    expected = run_loop(tmp_path / "whole", PlantedExecutor())
    for _ in range(4):
        with pytest.raises(Crash):
            run_loop(tmp_path / "s", PlantedExecutor(crash_after=4))
    assert run_loop(tmp_path / "s", PlantedExecutor()) == expected


def test_another_seed_is_another_search(tmp_path: Path) -> None:
    first, second = (
        run_loop(tmp_path / str(seed), PlantedExecutor(), seed=seed) for seed in (1, 2)
    )
    assert first[-1].candidate.recipe != second[-1].candidate.recipe


def test_a_failing_candidate_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def fails(recipe: MergeRecipe) -> bool:
        return recipe.operator == "linear" and len(recipe.sources) == 2

    entries = run_loop(tmp_path / "s", PlantedExecutor(fails=fails))
    failed = [entry for entry in entries if isinstance(entry.outcome, Failed)]
    assert [entry.candidate.name for entry in failed] == ["uniform average"]
    assert len(entries) == CANDIDATES + 1


def test_a_search_in_which_everything_fails_gives_up_with_the_reason(tmp_path: Path) -> None:
    executor = PlantedExecutor(fails=lambda recipe: recipe.operator == "task_arithmetic")
    with pytest.raises(NoCandidateError, match="the last 16 candidates failed: planted"):
        run_loop(tmp_path / "s", executor)


def test_a_recipe_that_is_proposed_twice_is_evaluated_once(tmp_path: Path) -> None:
    class Stubborn:
        def ask(self, count: int) -> list[tuple[float, ...]]:
            return [(0.5, 0.5, 0.5, 0.5)] * count

        def tell(self, fitness: object) -> None:
            pass

    executor = PlantedExecutor()
    with closing(RunStore.create(tmp_path / "s")) as store:
        loop = SearchLoop(
            genome=planted_genome(),
            strategy=Stubborn(),
            objective=OBJECTIVE,
            executor=executor,
            store=store,
            progress=Silent(),
        )
        loop.run(16, 5)
        fitness = {e.fitness for e in store.entries() if e.candidate.kind == "offspring"}
    assert len(executor.jobs) == 6 + 1
    assert len(fitness) == 1


def test_a_strategy_that_does_not_repeat_itself_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        run_loop(tmp_path / "s", PlantedExecutor(crash_after=13), seed=1)
    with pytest.raises(RunError, match="candidate 6: the strategy proposes another one now"):
        run_loop(tmp_path / "s", PlantedExecutor(), seed=2)


def test_a_larger_budget_continues_the_same_search(tmp_path: Path) -> None:
    run_loop(tmp_path / "s", PlantedExecutor(), candidates=16)
    longer = run_loop(tmp_path / "s", PlantedExecutor(), candidates=21)
    whole = run_loop(tmp_path / "whole", PlantedExecutor(), candidates=21)
    first, second = (
        [(e.candidate, e.outcome) for e in entries if e.candidate.number >= 0]
        for entries in (longer, whole)
    )
    assert first == second
    means = {e.candidate.number: e.candidate.name for e in longer if e.candidate.number < 0}
    assert means == {-1: "elite mean", -2: "elite mean 2"}


def test_the_search_finds_the_planted_optimum(tmp_path: Path) -> None:
    entries = run_loop(tmp_path / "s", PlantedExecutor(), candidates=120)
    winner = best(ranked(entries, OBJECTIVE), ("offspring",))
    assert winner.fitness is not None
    assert winner.fitness > 0.995
    start = best(ranked(entries, OBJECTIVE), ("baseline", "source"))
    assert start.fitness is not None
    assert winner.fitness > start.fitness
