"""Promise: finalists are told apart on items that neither the search nor the verdict has seen."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from planted import OBJECTIVE, Crash, PlantedExecutor, evaluated, planted_search

from evomerge.evaluation.scores.objective import Objective
from evomerge.evaluation.scores.outcome import Evaluated, TaskScore, Timing
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.run.finish.finalists import FINALISTS
from evomerge.run.loop.incumbents import ranked
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.store.records import Entry

CANDIDATES = 30


def search(
    file: Path, executor: PlantedExecutor, objective: Objective = OBJECTIVE, confirm: int = 1
) -> list[Entry]:
    items = [
        TaskItems(task=task, search=(0, 1), confirm=(2, 3)[:confirm], held_out=(4, 5))
        for task in objective.weights
    ]
    entries, _ = planted_search(
        file,
        executor,
        "random",
        candidates=CANDIDATES,
        generation=8,
        objective=objective,
        items=items,
        finish=True,
    )
    return entries


class Lucky(PlantedExecutor):
    """The more of the finalists was luck, the less of it is left on more items."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            assert isinstance(outcome, Evaluated)
            confirmed = job.split == "confirm"
            yield job, evaluated(1 - outcome.scores[0].score) if confirmed else outcome


def test_the_winner_is_the_finalist_that_is_best_on_all_items_but_the_held_out(
    tmp_path: Path,
) -> None:
    entries = search(tmp_path / "s", Lucky())
    merges = [e for e in entries if e.candidate.kind in ("offspring", "baseline")]
    winner = max((e for e in merges if e.confirmed), key=lambda e: OBJECTIVE.fitness(e.confirmed))
    first = max(merges, key=lambda e: e.fitness or -1)
    with closing(RunStore.open_for_reading(tmp_path / "s")) as store:
        assert store.fact("verdict")["winner"] == winner.candidate.digest != first.candidate.digest


def test_whoever_the_winner_meets_was_scored_on_the_same_items(tmp_path: Path) -> None:
    entries = search(tmp_path / "s", PlantedExecutor())
    assert all(e.confirmed for e in entries if e.candidate.kind != "offspring")
    assert sum(bool(e.confirmed) for e in entries) >= FINALISTS
    assert all(e.confirmed for e in ranked(entries, OBJECTIVE)[:FINALISTS])


def test_without_confirm_items_nothing_is_scored_twice(tmp_path: Path) -> None:
    executor = PlantedExecutor()
    entries = search(tmp_path / "s", executor, confirm=0)
    assert not any(e.confirmed for e in entries)
    jobs = [(job.number, job.split) for job in executor.jobs]
    assert len(jobs) == len(set(jobs))


@dataclass
class TwoTasks(PlantedExecutor):
    """A second task that prefers what the first one does not."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            assert isinstance(outcome, Evaluated)
            good = outcome.scores[0].score
            scores = tuple(
                TaskScore(task=task, score=score, items=(score, score))
                for task, score in (("easy", good), ("hard", 0.3 - good / 5))
            )
            timing = Timing(merge_s=0.1, forward_s=0.2, total_s=0.3)
            yield job, Evaluated(scores=scores, timing=timing)


RECOVERY = Objective(
    weights={"easy": 1.0, "hard": 1.0},
    higher_is_better={"easy": True, "hard": True},
    name="recovery",
)


def test_every_fitness_is_measured_by_the_best_source_the_sources_own_included(
    tmp_path: Path,
) -> None:
    entries = search(tmp_path / "s", TwoTasks(), RECOVERY)
    sources = [e.searched for e in entries if e.candidate.kind == "source"]
    measured = RECOVERY.measured_by(sources)
    for entry in entries:
        assert isinstance(entry.outcome, Evaluated)
        assert entry.fitness == pytest.approx(measured.fitness(entry.outcome.scores))
    assert max(measured.fitness(scores) for scores in sources) <= 1


def test_a_search_that_measures_by_the_sources_goes_on_after_a_crash(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", TwoTasks(), RECOVERY)
    for crash_after in (1, 4, 9, CANDIDATES, CANDIDATES + 3):
        file = tmp_path / f"crash{crash_after}"
        with pytest.raises(Crash):
            search(file, TwoTasks(crash_after=crash_after), RECOVERY)
        assert search(file, TwoTasks(), RECOVERY) == whole
