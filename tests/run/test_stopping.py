"""Promise: a search ends when the recipe says so, and whoever replays it ends there too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from planted import Crash, PlantedExecutor, planted_search

from evomerge.errors import RunError
from evomerge.evaluation.scores.outcome import Evaluated
from evomerge.recipe.search import Stop
from evomerge.search.contract import Finished

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.search.contract import Point, Proposal, Result
    from evomerge.store.records import Entry

CANDIDATES, GENERATION, FIRST = 60, 4, 6


class Stuck:
    """Proposes the same points for ever, but one that gets a little worse each time."""

    def __init__(self) -> None:
        self._asked = 0

    def ask(self, count: int) -> list[Point]:
        self._asked += count
        return [(0.6, 0.6, 0.6, 0.7 + (self._asked + i) / 1000) for i in range(count)]

    def tell(self, results: Sequence[Result]) -> None:
        pass


def search(
    file: Path,
    stop: Stop,
    executor: PlantedExecutor | None = None,
    strategy: Any = None,
    *,
    steady: bool = False,
) -> tuple[list[Entry], str | None]:
    return planted_search(
        file,
        executor or PlantedExecutor(),
        strategy or "CMA",
        candidates=CANDIDATES,
        generation=GENERATION,
        steady=steady,
        stop=stop,
    )


def test_without_limits_all_candidates_are_used(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop())
    assert (len(entries), stopped) == (CANDIDATES, None)


def test_it_ends_after_so_many_generations_without_a_better_one(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop(patience=3), strategy=Stuck())
    best = max(range(len(entries)), key=lambda number: entries[number].fitness or -1)
    since = len(entries) - best - 1
    assert 3 * GENERATION <= since < 4 * GENERATION
    assert stopped == f"none of the last {since} candidates was better than the best"


def test_it_ends_with_the_generation_that_reaches_the_target(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop(target=0.99))
    reached = next(i for i, entry in enumerate(entries) if (entry.fitness or -1) >= 0.99)
    assert reached < len(entries) <= reached + GENERATION
    assert stopped
    assert stopped.startswith("the best score is 0.99")


def test_it_ends_when_the_workers_have_worked_long_enough(tmp_path: Path) -> None:
    # Each planted candidate takes 0.3 seconds, as its timing says.
    entries, stopped = search(tmp_path / "s", Stop(hours=20 * 0.3 / 3600))
    assert 20 <= len(entries) < 20 + GENERATION
    assert stopped == f"the workers have worked for {len(entries) * 0.3 / 3600:.3g} hours"


def test_it_ends_when_so_many_items_were_scored(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop(items=35))
    assert (
        sum(len(e.outcome.scores[0].items) for e in entries if isinstance(e.outcome, Evaluated))
        == 36
    )
    assert stopped == "36 items were scored"


@pytest.mark.parametrize("steady", [False, True])
def test_a_search_that_stops_early_goes_on_after_a_crash_and_stops_at_the_same_candidate(
    tmp_path: Path, steady: bool
) -> None:
    stop = Stop(target=0.98)
    expected = search(tmp_path / "whole", stop, steady=steady)
    assert expected[1]
    for crash_after in range(0, len(expected[0]), 3):
        file = tmp_path / f"crash{crash_after}"
        with pytest.raises(Crash):
            search(file, stop, PlantedExecutor(crash_after=crash_after), steady=steady)
        assert search(file, stop, steady=steady) == expected
    again = PlantedExecutor()
    assert search(tmp_path / "whole", stop, again, steady=steady) == expected
    assert again.jobs == []


def test_what_was_under_way_when_a_steady_search_stopped_is_not_lost(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop(target=0.98), steady=True)
    assert stopped
    assert all(entry.outcome is not None for entry in entries)


def test_patience_waits_for_offspring(tmp_path: Path) -> None:
    entries, _ = search(tmp_path / "s", Stop(patience=1), strategy=Stuck())
    assert sum(entry.candidate.generation > 0 for entry in entries) >= GENERATION


class Repeating:
    """Proposes what was proposed before."""

    def ask(self, count: int) -> list[Point]:
        return [(0.5, 0.5, 0.5, 0.5)] * count

    def tell(self, results: Sequence[Result]) -> None:
        pass


def test_items_that_were_not_scored_again_do_not_count(tmp_path: Path) -> None:
    _, stopped = search(tmp_path / "s", Stop(items=16), strategy=Repeating())
    assert stopped == "the last 16 candidates were no new ones"


def test_a_strategy_that_proposes_nothing_new_ends_the_search(tmp_path: Path) -> None:
    executor = PlantedExecutor()
    entries, stopped = search(tmp_path / "s", Stop(), executor, Repeating())
    assert stopped == "the last 16 candidates were no new ones"
    assert len(executor.jobs) == FIRST + 1
    assert FIRST + 17 <= len(entries) <= FIRST + 17 + GENERATION


class Few:
    """Proposes two points at a time, waits until both are told, and ends after three times."""

    def __init__(self) -> None:
        self._asked = self._told = 0

    def ask(self, count: int) -> list[Point]:
        if self._told == 6:
            raise Finished("six are enough")
        # Two more when the last two are known, as many of them as there is room for.
        room = min(count, 2 + self._told // 2 * 2 - self._asked)
        self._asked += room
        return [(0.6, 0.6, 0.6, (self._asked - i) / 10) for i in range(room)]

    def tell(self, results: Sequence[Result]) -> None:
        self._told += len(results)


@pytest.mark.parametrize("steady", [False, True])
def test_a_strategy_may_propose_few_and_end_the_search_itself(
    tmp_path: Path, steady: bool
) -> None:
    expected = search(tmp_path / "s", Stop(), strategy=Few(), steady=steady)
    entries, stopped = expected
    assert (len(entries), stopped) == (FIRST + 6, "six are enough")
    for crash_after in range(FIRST, len(entries)):
        file, crashing = tmp_path / str(crash_after), PlantedExecutor(crash_after=crash_after)
        with pytest.raises(Crash):
            search(file, Stop(), crashing, Few(), steady=steady)
        assert search(file, Stop(), strategy=Few(), steady=steady) == expected


class Asking:
    """Hears what the sources scored, many times over, before it proposes anything."""

    def __init__(self) -> None:
        self._asked = 0

    def ask(self, count: int) -> list[Proposal]:
        self._asked += count
        return [0 if self._asked <= 24 else (0.6, 0.6, 0.6, self._asked / 99)] * count

    def tell(self, results: Sequence[Result]) -> None:
        pass


def test_asking_for_sources_is_no_reason_to_stop(tmp_path: Path) -> None:
    entries, stopped = search(tmp_path / "s", Stop(), strategy=Asking())
    assert (len(entries), stopped) == (CANDIDATES, None)


def test_a_search_that_found_something_ends_with_a_reason_when_all_others_fail(
    tmp_path: Path,
) -> None:
    failing = PlantedExecutor(fails=lambda recipe: len(seen) > 10 or bool(seen.append(recipe)))
    seen: list[object] = []
    _, stopped = search(tmp_path / "s", Stop(), failing)
    assert stopped == "the last 16 candidates failed: planted failure"


class Speechless:
    """Proposes nothing, and does not say that it is done."""

    def ask(self, count: int) -> list[Point]:
        return []

    def tell(self, results: Sequence[Result]) -> None:
        pass


@pytest.mark.parametrize("steady", [False, True])
def test_a_strategy_that_proposes_nothing_is_told_how_to_end(tmp_path: Path, steady: bool) -> None:
    with pytest.raises(RunError, match=r"Speechless proposes nothing .* raises Finished"):
        search(tmp_path / "s", Stop(), strategy=Speechless(), steady=steady)
