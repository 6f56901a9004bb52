"""Promise: a race changes what is spent, not what is found, and nothing of it is lost."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from planted import OBJECTIVE, Crash, PlantedExecutor, Silent, planted_genome, planted_score

from evomerge.evaluation.scores.outcome import Evaluated, Failed, Outcome, TaskScore, Timing
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.recipe.digest import digest
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.search import Racing
from evomerge.run.finish.finalists import FINALISTS, best, confirm
from evomerge.run.finish.finish import finish_search
from evomerge.run.loop.incumbents import ranked
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.strategies import build_strategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evomerge.executors.contract import Job
    from evomerge.store.records import Entry

ITEMS, CANDIDATES, GENERATION = 80, 40, 8
RACING = Racing()


@dataclass
class ItemExecutor(PlantedExecutor):
    """Solves an item if the recipe's planted score and some luck exceed the item's difficulty."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            yield job, outcome if isinstance(outcome, Failed) else _score(job)


def _score(job: Job) -> Evaluated:
    luck = np.random.default_rng(abs(job.number)).normal(0, 0.05, ITEMS)
    difficulty = np.random.default_rng(0).random(ITEMS)
    solved = (planted_score(job.recipe) ** 3 + luck > difficulty).astype(float).tolist()
    if job.split == "held_out":
        solved = solved[::-1]
    timing = Timing(merge_s=0.1, forward_s=0.2, total_s=0.3)
    for rung in RACING.rungs if job.race else ():
        seen = solved[: math.ceil(rung * ITEMS)]
        given = TaskScore(task="planted", score=0.0, items=tuple(seen))
        lost = job.race.stopped([given]) if job.race else None
        if lost is not None:
            return Evaluated(scores=lost, timing=timing, share=len(seen) / ITEMS)
    whole = TaskScore(task="planted", score=float(np.mean(solved)), items=tuple(solved))
    return Evaluated(scores=(whole,), timing=timing)


def search(
    file: Path, executor: PlantedExecutor, racing: Racing | None = RACING, seed: int = 3
) -> list[Entry]:
    genome = planted_genome()
    settings = StrategySettings(dimension=len(genome.genes), generation=GENERATION, seed=seed)
    store = RunStore.open_for_writing(file) if file.exists() else RunStore.create(file)
    with closing(store):
        if not store.items():
            places = tuple(range(ITEMS))
            store.write_facts({}, [TaskItems(task="planted", search=places, held_out=places)])
        loop = SearchLoop(
            genome=genome,
            strategy=build_strategy("CMA", settings),
            objective=OBJECTIVE,
            executor=executor,
            store=store,
            progress=Silent(),
            racing=racing,
        )
        loop.run(CANDIDATES, GENERATION)
        finish_search(store, executor, OBJECTIVE, Silent(), genome)
        return store.entries()


def stopped(entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in entries if isinstance(e.outcome, Evaluated) and e.outcome.share < 1]


def test_the_first_generation_has_nothing_to_beat_and_the_next_ones_have(tmp_path: Path) -> None:
    executor = ItemExecutor()
    entries = search(tmp_path / "s", executor)
    first = sum(entry.candidate.generation == 0 for entry in entries)
    raced = {job.number for job in executor.jobs if job.race}
    assert raced == set(range(first, CANDIDATES))
    assert stopped(entries)


def test_a_stopped_candidate_is_told_with_an_estimate_and_keeps_the_items_it_was_scored_on(
    tmp_path: Path,
) -> None:
    for entry in stopped(search(tmp_path / "s", ItemExecutor())):
        assert isinstance(entry.outcome, Evaluated)
        (score,) = entry.outcome.scores
        assert len(score.items) == entry.outcome.share * ITEMS
        assert entry.fitness == score.score


def test_the_best_candidates_are_scored_on_all_items_in_the_end(tmp_path: Path) -> None:
    entries = search(tmp_path / "s", ItemExecutor())
    known = sorted(entries, key=lambda e: e.search_score(OBJECTIVE) or -1, reverse=True)
    assert all(entry.whole for entry in known[:FINALISTS])
    winner = best(ranked(entries, OBJECTIVE), ("offspring", "baseline"))
    merges = [e for e in entries if e.candidate.kind in ("offspring", "baseline")]
    assert max(e.search_score(OBJECTIVE) or -1 for e in merges) == winner.search_score(OBJECTIVE)


def test_a_confirmed_score_replaces_the_estimate_but_not_what_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.run.finish.finalists.FINALISTS", 30)
    found = [entry for entry in search(tmp_path / "s", ItemExecutor()) if entry.confirmed]
    assert found
    for entry in found:
        assert entry.search_score(OBJECTIVE) == OBJECTIVE.fitness(entry.confirmed)
        assert isinstance(entry.outcome, Evaluated)
        assert entry.fitness == OBJECTIVE.fitness(entry.outcome.scores)


def test_a_recipe_that_was_asked_for_twice_is_confirmed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path / "s", ItemExecutor())
    with closing(RunStore.open_for_writing(tmp_path / "s")) as store:
        entry = stopped(store.entries())[0]
        assert entry.outcome is not None
        twin = replace(entry.candidate, number=CANDIDATES)
        store.add_candidates([twin])
        store.add_outcome(CANDIDATES, entry.outcome, entry.fitness)
        monkeypatch.setattr("evomerge.run.finish.finalists.FINALISTS", CANDIDATES + 9)
        executor = ItemExecutor()
        confirm(store, executor, OBJECTIVE, Silent())
        asked = [digest(job.recipe) for job in executor.jobs]
        assert asked.count(twin.digest) == 1
        assert all(each.whole for each in store.entries())


@pytest.mark.slow
def test_a_crash_at_any_point_changes_nothing(tmp_path: Path) -> None:
    expected = search(tmp_path / "whole", ItemExecutor())
    for crash_after in range(1, CANDIDATES + 8, 5):
        file = tmp_path / f"crash{crash_after}"
        with pytest.raises(Crash):
            search(file, ItemExecutor(crash_after=crash_after))
        assert search(file, ItemExecutor()) == expected


@pytest.mark.slow
def test_races_spend_fewer_items_and_find_as_good_a_merge(tmp_path: Path) -> None:
    gaps, spent = [], []
    for seed in range(10):
        results = [
            search(tmp_path / f"{seed}{racing}", ItemExecutor(), racing, seed)
            for racing in (RACING, None)
        ]
        quality = [
            planted_score(_recipe(best(ranked(entries, OBJECTIVE), ("offspring", "baseline"))))
            for entries in results
        ]
        gaps.append(quality[0] - quality[1])
        spent.append(
            np.mean([e.outcome.share for e in results[0] if isinstance(e.outcome, Evaluated)])
        )
    assert np.mean(spent) < 0.8
    assert np.mean(gaps) > -0.02


def _recipe(entry: Entry) -> MergeRecipe:
    return MergeRecipe.model_validate_json(entry.candidate.recipe)
