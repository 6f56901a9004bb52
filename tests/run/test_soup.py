"""Promise: a soup of the best holds those only that do not lower its search score."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from planted import OBJECTIVE, Crash, PlantedExecutor, Silent, evaluated, planted_genome
from planted import planted_search as search

from evomerge.run.finish.finalists import FINALISTS, best_points
from evomerge.run.finish.finish import finish_search
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job
    from evomerge.store.records import Entry


class Tasting(PlantedExecutor):
    """Gives the means that are tried these scores, one after the other; others what they merit.

    Items differ so much that no mean is told from another candidate beyond doubt.
    """

    scores: tuple[float, ...] = ()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            if job.number >= 0:
                yield job, outcome
                continue
            given = evaluated(self.scores[-job.number - 1])
            (score,) = given.scores
            items = (score.items[0] + 0.5, score.items[1] - 0.5)
            yield job, replace(given, scores=(replace(score, items=items),))


def tasting(*scores: float, crash_after: int | None = None) -> Tasting:
    executor = Tasting(crash_after=crash_after)
    executor.scores = scores
    return executor


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    search(tmp_path / "s", PlantedExecutor(), "random", candidates=20, generation=4)
    with closing(RunStore.open_for_writing(tmp_path / "s")) as opened:
        yield opened


def finish(store: RunStore, executor: PlantedExecutor) -> None:
    finish_search(store, executor, OBJECTIVE, Silent(), planted_genome(), soup=True)


def tried(store: RunStore) -> list[Entry]:
    """The means that were tried, in order."""
    return sorted(
        (e for e in store.entries() if e.candidate.number < 0), key=lambda e: -e.candidate.number
    )


def test_each_of_the_best_is_tried_with_those_before_it_that_were_kept(store: RunStore) -> None:
    elites = best_points(store.entries(), OBJECTIVE)
    # The second, fourth and fifth lower the score, the others do not.
    finish(store, tasting(0.1, 2.0, 0.5, 1.9, 2.0, 2.1, 2.2))
    points = [np.array(elite.candidate.genotype) for elite in elites]
    members = [(0, 1), (0, 2), (0, 2, 3), (0, 2, 4), (0, 2, 5), (0, 2, 5, 6), (0, 2, 5, 6, 7)]
    assert len(elites) == FINALISTS
    for entry, of in zip(tried(store), members, strict=True):
        mean = np.mean([points[index] for index in of], axis=0)
        assert entry.candidate.genotype == pytest.approx(mean)
    assert tried(store)[0].candidate.name == "elite soup"
    assert store.fact("verdict")["winner"] == tried(store)[-1].candidate.digest


def test_what_was_not_kept_does_not_win(store: RunStore) -> None:
    lead = best_points(store.entries(), OBJECTIVE)[0]
    score = lead.search_score(OBJECTIVE) or 0.0
    finish(store, tasting(*[score - 0.001] * 7))
    assert len(tried(store)) == 7
    assert store.fact("verdict")["winner"] == lead.candidate.digest


@pytest.mark.parametrize("crash_after", [0, 3, 7])
def test_a_crash_changes_nothing_about_it(
    store: RunStore, tmp_path: Path, crash_after: int
) -> None:
    search(tmp_path / "whole", PlantedExecutor(), "random", candidates=20, generation=4)
    with closing(RunStore.open_for_writing(tmp_path / "whole")) as whole:
        finish(whole, PlantedExecutor())
        expected, verdict = whole.entries(), whole.fact("verdict")
    with pytest.raises(Crash):
        finish(store, PlantedExecutor(crash_after=crash_after))
    finish(store, PlantedExecutor())
    assert (store.entries(), store.fact("verdict")) == (expected, verdict)
