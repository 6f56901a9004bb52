"""Promise: limits of time hold however often a search is interrupted, and a replay is the same."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from planted import Crash, PlantedExecutor, planted_search

from evomerge.recipe.search import SearchRecipe, Stop
from evomerge.run.loop import clock
from evomerge.run.loop.clock import Clock
from evomerge.store.database import RunStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evomerge.executors.contract import Job
    from evomerge.store.records import Entry

CANDIDATES, GENERATION, TAKES_S = 60, 4, 100.0


@dataclass
class Wall:
    """A clock on the wall.

    Attributes:
        seconds: What it shows.
    """

    seconds: float = 5000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    shown = Wall()
    monkeypatch.setattr(clock, "monotonic", shown)
    return shown


@dataclass
class Slow(PlantedExecutor):
    """Every candidate takes its time on the wall."""

    wall: Wall = field(default_factory=Wall)

    def run(self, jobs: Sequence[Job]):  # type: ignore[no-untyped-def]
        for each in super().run(jobs):
            self.wall.seconds += TAKES_S
            yield each


def search(
    file: Path, wall: Wall, stop: Stop, crash_after: int | None = None, *, steady: bool = False
) -> tuple[list[Entry], str | None]:
    return planted_search(
        file,
        Slow(crash_after=crash_after, wall=wall),
        candidates=CANDIDATES,
        generation=GENERATION,
        steady=steady,
        stop=stop,
    )


def stop_after(candidates: int) -> Stop:
    return Stop(wall_hours=candidates * TAKES_S / 3600)


def test_a_search_ends_when_it_has_taken_long_enough(tmp_path: Path, wall: Wall) -> None:
    entries, reason = search(tmp_path / "s", wall, stop_after(20))
    assert 20 <= len(entries) < 20 + GENERATION
    assert reason == f"the search has taken {len(entries) * TAKES_S / 3600:.3g} hours"


@pytest.mark.parametrize("steady", [False, True])
def test_time_goes_on_after_a_crash_from_where_it_stood(
    tmp_path: Path, wall: Wall, steady: bool
) -> None:
    expected = search(tmp_path / "whole", wall, stop_after(20), steady=steady)
    for crash_after in (1, 10, 19):
        file = tmp_path / str(crash_after)
        with pytest.raises(Crash):
            search(file, wall, stop_after(20), crash_after, steady=steady)
        wall.seconds += 1e6  # nothing ran
        assert search(file, wall, stop_after(20), steady=steady) == expected


@pytest.mark.parametrize("steady", [False, True])
def test_a_search_that_was_ended_by_time_ends_there_again(
    tmp_path: Path, wall: Wall, steady: bool
) -> None:
    expected = search(tmp_path / "s", wall, stop_after(20), steady=steady)
    assert search(tmp_path / "s", wall, stop_after(20), steady=steady) == expected
    # A limit that is lower now takes nothing back.
    assert search(tmp_path / "s", wall, stop_after(9), steady=steady)[0] == expected[0]


@pytest.mark.parametrize("steady", [False, True])
def test_what_was_under_way_when_a_process_died_is_done_though_its_time_is_over(
    tmp_path: Path, wall: Wall, steady: bool
) -> None:
    with pytest.raises(Crash):
        search(tmp_path / "s", wall, stop_after(20), crash_after=15, steady=steady)
    entries, reason = search(tmp_path / "s", wall, stop_after(9), steady=steady)
    assert reason
    assert len(entries) >= 15
    assert all(entry.outcome is not None for entry in entries)


@pytest.mark.parametrize("steady", [False, True])
def test_a_search_that_is_given_more_time_is_the_one_that_had_it_from_the_start(
    tmp_path: Path, wall: Wall, steady: bool
) -> None:
    expected = search(tmp_path / "whole", wall, stop_after(32), steady=steady)[0]
    search(tmp_path / "s", wall, stop_after(20), steady=steady)
    more = search(tmp_path / "s", wall, stop_after(32), steady=steady)[0]
    assert more[:32] == expected[:32]


def test_gpu_hours_are_the_time_for_which_workers_held_gpus(tmp_path: Path, wall: Wall) -> None:
    stop = Stop(gpu_hours=20 * TAKES_S / 3600)

    def searched(workers_share: float, crash_after: int | None = None) -> list[Entry]:
        executor = Slow(crash_after=crash_after, wall=wall, gpus=workers_share)
        return planted_search(
            tmp_path / "s", executor, candidates=CANDIDATES, generation=GENERATION, stop=stop
        )[0]

    with pytest.raises(Crash):
        searched(0.5, crash_after=10)
    with closing(RunStore.open_for_writing(tmp_path / "s")) as store:
        held = store.fact(clock.GPU_FACT)
    assert held == 0.5 * TAKES_S * 10
    # What was held before is not counted anew by the GPUs that are there now.
    found = len(searched(2.0)) - 10
    assert 0 <= 2.0 * TAKES_S * found - (20 * TAKES_S - held) < 2.0 * TAKES_S * GENERATION


def test_time_is_noted_when_a_search_ends_however_short_it_was(
    tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "KEPT_EVERY_S", 1e9)
    search(tmp_path / "s", wall, stop_after(9))
    with closing(RunStore.open_for_writing(tmp_path / "s")) as store:
        assert store.fact(clock.FACT) >= 9 * TAKES_S


def test_time_is_noted_now_and_then(tmp_path: Path, wall: Wall) -> None:
    with closing(RunStore.create(tmp_path / "s")) as store:
        running = Clock(store)
        wall.seconds += clock.KEPT_EVERY_S - 1
        running.keep_now_and_then()
        assert store.fact(clock.FACT) is None
        wall.seconds += 1
        running.keep_now_and_then()
        assert Clock(store).seconds == clock.KEPT_EVERY_S


def test_hours_of_gpus_that_are_not_used_are_refused() -> None:
    recipe = {
        "base": "base",
        "sources": ["one", "two"],
        "evaluation": {"tasks": ["task"], "device": "cpu"},
        "search": {"stop": {"gpu_hours": 1}},
    }
    with pytest.raises(ValueError, match=r"gpu_hours never ends .* give hours or wall_hours"):
        SearchRecipe.model_validate(recipe)
