"""Promise: candidates that a strategy leaves over are spent around the best points it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from planted import OPTIMUM, Crash, PlantedExecutor, planted_search

from evomerge.recipe.search import Stop
from evomerge.run.loop.incumbents import ELITES
from evomerge.search.contract import Breeding, Finished, StrategySettings
from evomerge.search.coordinate import CoordinateSearch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.search.contract import Point, Proposal, Result
    from evomerge.store.records import Entry

CANDIDATES, GENERATION, FIRST, DIMENSION = 46, 4, 6, 4


class Short:
    """Proposes a few points and ends."""

    def __init__(self, points: int = 10) -> None:
        self._left = points

    def ask(self, count: int) -> Sequence[Proposal]:
        if not self._left:
            raise Finished("no points are left")
        taken = min(count, self._left)
        self._left -= taken
        return [(0.5, 0.6, 0.5, (self._left + i) / 20) for i in range(taken)]

    def tell(self, results: Sequence[Result]) -> None:
        pass


class There(Short):
    """Proposes the optimum, and ends."""

    def ask(self, count: int) -> Sequence[Proposal]:
        return [(OPTIMUM,) * DIMENSION for _ in super().ask(count)]


class Repeating(Short):
    """Proposes the same point for ever."""

    def ask(self, count: int) -> list[Point]:
        return [(0.5, 0.6, 0.5, 0.5)] * count


class Twins(Short):
    """Proposes every point twice."""

    def ask(self, count: int) -> Sequence[Proposal]:
        left = self._left
        return [
            (0.5, 0.6, 0.5, (left - place) // 2 / 10) for place, _ in enumerate(super().ask(count))
        ]


class Breeder(Short):
    """Breeds models, which are no points."""

    def ask(self, count: int) -> list[Proposal]:
        return [Breeding(operator="linear", parents=(0, 1)) for _ in super().ask(count)]


def around(point: Point) -> CoordinateSearch:
    settings = StrategySettings(
        dimension=DIMENSION, generation=GENERATION, seed=0, step=0.1, centre=point
    )
    return CoordinateSearch(settings)


def search(
    file: Path,
    strategy: Any,
    executor: PlantedExecutor | None = None,
    candidates: int = CANDIDATES,
    **course: Any,
) -> tuple[list[Entry], str | None]:
    return planted_search(
        file,
        executor or PlantedExecutor(),
        strategy,
        candidates=candidates,
        generation=GENERATION,
        **{"local": around, **course},
    )


def best(entries: Sequence[Entry]) -> Entry:
    return max(entries, key=lambda entry: entry.fitness or -1)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("strategy", [Short, Twins, Repeating])
def test_what_is_left_is_spent_around_the_mean_of_the_best_points(
    tmp_path: Path, strategy: type[Short], steady: bool
) -> None:
    before, ended = search(tmp_path / "a", strategy(), steady=steady, local=None)
    entries, reason = search(tmp_path / "b", strategy(), steady=steady)
    assert ended
    assert entries[: len(before)] == before
    assert len(before) < len(entries) == CANDIDATES
    assert reason is None
    assert [entry.candidate.number for entry in entries] == list(range(CANDIDATES))
    # The same point twice counts once.
    known = {e.candidate.digest: e for e in before if e.candidate.genotype}.values()
    elites = sorted(known, key=lambda entry: -(entry.fitness or 0))[:ELITES]
    first, second = (entry.candidate.genotype or () for entry in entries[len(before) :][:2])
    assert first == pytest.approx(np.mean([e.candidate.genotype for e in elites], axis=0))
    assert sum(one != other for one, other in zip(first, second, strict=True)) == 1
    assert (best(entries).fitness or 0) > (best(before).fitness or 1)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("strategy", [Short, Repeating])
def test_a_crash_at_any_event_changes_nothing(
    tmp_path: Path, strategy: type[Short], steady: bool
) -> None:
    executor = PlantedExecutor()
    expected = search(tmp_path / "whole", strategy(), executor, steady=steady, candidates=34)
    done = len(executor.jobs)
    for crash_after in range(done - 8, done, 2):
        file, crashing = tmp_path / str(crash_after), PlantedExecutor(crash_after)
        with pytest.raises(Crash):
            search(file, strategy(), crashing, steady=steady, candidates=34)
        assert search(file, strategy(), steady=steady, candidates=34) == expected


def test_a_search_that_uses_its_candidates_is_left_as_it_was(tmp_path: Path) -> None:
    begun: list[Point] = []

    def local(point: Point) -> CoordinateSearch:
        begun.append(point)
        return around(point)

    with_it = search(tmp_path / "a", "CMA", candidates=40, local=local)
    assert with_it == search(tmp_path / "b", "CMA", candidates=40, local=None)
    # Also one that proposes nothing new when the last one was told.
    used = search(tmp_path / "c", Short(), candidates=FIRST + 10, local=local)
    assert used == search(tmp_path / "d", Short(), candidates=FIRST + 10, local=None)
    assert begun == []


@pytest.mark.parametrize("steady", [False, True])
def test_a_run_that_is_given_more_candidates_repeats_what_it_did(
    tmp_path: Path, steady: bool
) -> None:
    few, _ = search(tmp_path / "s", Short(), candidates=25, steady=steady)
    more, _ = search(tmp_path / "s", Short(), candidates=40, steady=steady)
    assert more[:25] == few
    assert len(more) == 40


def test_a_run_that_ended_without_it_goes_on_with_it(tmp_path: Path) -> None:
    ended, _ = search(tmp_path / "s", Repeating(), steady=True, local=None)
    going_on, _ = search(tmp_path / "s", Repeating(), steady=True)
    assert going_on[: len(ended)] == ended
    assert going_on == search(tmp_path / "new", Repeating(), steady=True)[0]


def test_a_search_that_breeds_models_ends_as_it_did(tmp_path: Path) -> None:
    entries, reason = search(tmp_path / "s", Breeder())
    assert (len(entries), reason) == (FIRST + 10, "no points are left")


def test_a_search_in_which_everything_fails_ends_for_good(tmp_path: Path) -> None:
    seen: list[object] = []
    failing = PlantedExecutor(fails=lambda recipe: len(seen) > 10 or bool(seen.append(recipe)))
    entries, reason = search(tmp_path / "s", "random", failing)
    assert reason == "the last 16 candidates failed: planted failure"
    assert len(entries) < CANDIDATES


def test_limits_hold_there_too(tmp_path: Path) -> None:
    entries, reason = search(tmp_path / "s", Short(), candidates=90, stop=Stop(target=0.97))
    assert reason
    assert reason.startswith("no points are left, then the best score is 0.97")
    assert FIRST + 10 < len(entries) < 90


def test_it_ends_when_no_step_is_better_and_says_both_reasons(tmp_path: Path) -> None:
    entries, reason = search(tmp_path / "s", There(1))
    assert reason == "no points are left, then no step along a coordinate is better"
    assert len(entries) < CANDIDATES


def test_without_any_point_to_start_from_there_is_none(tmp_path: Path) -> None:
    entries, reason = search(tmp_path / "s", Short(0))
    assert (len(entries), reason) == (FIRST, "no points are left")
