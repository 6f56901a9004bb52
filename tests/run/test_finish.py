"""Promise: held-out items judge the winner and never choose it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from planted import OBJECTIVE, Crash, PlantedExecutor, Silent, evaluated, planted_genome

from evomerge.errors import NoCandidateError, RunError
from evomerge.evaluation.scores.outcome import Failed
from evomerge.run.finish.finalists import best
from evomerge.run.finish.finish import finish_search
from evomerge.run.loop.incumbents import ranked
from evomerge.run.loop.loop import SearchLoop
from evomerge.search.contract import StrategySettings
from evomerge.search.random import RandomStrategy
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evomerge.evaluation.scores.outcome import Outcome
    from evomerge.executors.contract import Job


@pytest.fixture
def searched(tmp_path: Path) -> Iterator[RunStore]:
    genome = planted_genome()
    settings = StrategySettings(dimension=len(genome.genes), generation=4, seed=0)
    with closing(RunStore.create(tmp_path / "run.sqlite")) as store:
        loop = SearchLoop(
            genome=genome,
            strategy=RandomStrategy(settings),
            objective=OBJECTIVE,
            executor=PlantedExecutor(),
            store=store,
            progress=Silent(),
        )
        loop.run(14, 4)
        yield store


def finish(store: RunStore, executor: PlantedExecutor) -> None:
    finish_search(store, executor, OBJECTIVE, Silent(), planted_genome())


class Contrary(PlantedExecutor):
    """On held-out items the best of the search are the worst."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            assert not isinstance(outcome, Failed)
            held_out = job.split == "held_out"
            yield job, evaluated(-outcome.scores[0].score) if held_out else outcome


def test_winner_and_rival_are_chosen_by_search_score_alone(searched: RunStore) -> None:
    finish(searched, Contrary())
    verdict, entries = searched.fact("verdict"), searched.entries()
    assert (
        verdict["winner"]
        == best(ranked(entries, OBJECTIVE), ("offspring", "baseline")).candidate.digest
    )
    assert verdict["best_source"] == best(ranked(entries, OBJECTIVE), ("source",)).candidate.digest
    assert verdict["difference"] < 0


def test_the_winner_meets_the_best_source_and_the_uniform_average(searched: RunStore) -> None:
    finish(searched, PlantedExecutor())
    verdict, entries = searched.fact("verdict"), searched.entries()
    met = [each["name"] for each in verdict["comparisons"]]
    assert met == [best(ranked(entries, OBJECTIVE), ("source",)).candidate.name, "uniform average"]
    for each in verdict["comparisons"]:
        low, high = each["interval"]
        words = {"better": low > 0, "worse": high < 0}
        assert words.get(each["verdict"], low <= 0 <= high)
        assert f"{each['verdict']} " in verdict["text"]
    assert verdict["difference"] == verdict["comparisons"][0]["difference"]


def test_the_luck_of_the_winner_is_told(searched: RunStore) -> None:
    finish(searched, Contrary())
    verdict = searched.fact("verdict")
    winner = best(ranked(searched.entries(), OBJECTIVE), ("offspring", "baseline"))
    held_out = OBJECTIVE.fitness(winner.held_out)
    assert verdict["search_minus_held_out"] == pytest.approx(winner.fitness - held_out)
    assert "higher than its held-out score" in verdict["text"]


def test_offspring_other_than_the_winner_never_see_held_out_items(searched: RunStore) -> None:
    executor = PlantedExecutor()
    finish(searched, executor)
    kind = {e.candidate.number: e.candidate.kind for e in searched.entries()}
    kinds = [kind[job.number] for job in executor.jobs if job.split == "held_out"]
    assert kinds.count("offspring") <= 1
    assert set(kinds) >= {"base", "source", "baseline"}


def test_held_out_scores_are_not_measured_twice(searched: RunStore) -> None:
    finish(searched, PlantedExecutor())
    again = PlantedExecutor()
    finish(searched, again)
    assert again.jobs == []


def test_a_crash_in_the_finish_can_be_repaired(searched: RunStore) -> None:
    with pytest.raises(Crash):
        finish(searched, PlantedExecutor(crash_after=2))
    assert searched.fact("state") is None
    finish(searched, PlantedExecutor())
    assert searched.fact("state") == "finished"


def test_a_finalist_that_fails_is_named(searched: RunStore) -> None:
    with pytest.raises(RunError, match=r"candidate .* on held-out items: planted failure"):
        finish(searched, PlantedExecutor(fails=lambda _: True))


def test_without_any_merge_there_is_no_winner(searched: RunStore) -> None:
    with pytest.raises(NoCandidateError, match="no offspring or baseline could be evaluated"):
        best([], ("offspring", "baseline"))


def test_in_doubt_the_mean_of_the_best_wins_and_that_is_said(searched: RunStore) -> None:
    class Equal(PlantedExecutor):
        """The elite mean is as good as the best offspring."""

        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
            top = best(ranked(searched.entries(), OBJECTIVE), ("offspring", "baseline"))
            for job, outcome in super().run(jobs):
                equal = evaluated(top.search_score(OBJECTIVE) or 0)
                yield job, equal if job.number < 0 else outcome

    top = best(ranked(searched.entries(), OBJECTIVE), ("offspring", "baseline"))
    finish(searched, Equal())
    (mean,) = (e for e in searched.entries() if e.candidate.number < 0)
    verdict = searched.fact("verdict")
    assert verdict["winner"] == mean.candidate.digest
    told = f"candidate {top.candidate.digest[:12]} scored less than 0.001 more on the search items"
    assert told in verdict["text"]


def test_a_candidate_that_is_better_than_the_mean_beyond_doubt_wins(searched: RunStore) -> None:
    class Bad(PlantedExecutor):
        """The elite mean is bad."""

        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
            for job, outcome in super().run(jobs):
                yield job, evaluated(-1.0) if job.number < 0 else outcome

    top = best(ranked(searched.entries(), OBJECTIVE), ("offspring", "baseline"))
    finish(searched, Bad())
    assert searched.fact("verdict")["winner"] == top.candidate.digest
    assert "elite mean" not in searched.fact("verdict")["text"]


def test_a_baseline_is_not_passed_over_for_a_mean_that_scores_less(searched: RunStore) -> None:
    class Bad(PlantedExecutor):
        """The mean is worse than every baseline, though not beyond doubt."""

        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
            for job, outcome in super().run(jobs):
                yield job, evaluated(baseline - 0.001) if job.number < 0 else outcome

    entries = ranked(searched.entries(), OBJECTIVE)
    baseline = best(entries, ("baseline",)).search_score(OBJECTIVE) or 0
    finish(searched, Bad())
    winner = searched.fact("verdict")["winner"]
    kinds = {e.candidate.digest: e.candidate.kind for e in entries}
    assert winner in kinds  # the mean is none of them
