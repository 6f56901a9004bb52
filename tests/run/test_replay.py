"""Promise: whatever the strategy, a search that is cut at any event goes on as it would have."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from planted import Crash, PlantedExecutor, planted_search

from evomerge.search.strategies import STRATEGIES

if TYPE_CHECKING:
    from pathlib import Path

    from evomerge.recipe.search import StrategyName

EVENTS, GENERATION, CUTS = 60, 6, 6


def cuts(name: str) -> list[int]:
    """Some events; those of all strategies together are all there are."""
    place = sorted(STRATEGIES).index(name)
    return [(7 * place + 10 * number) % EVENTS for number in range(CUTS)]


def test_the_cuts_of_all_strategies_together_are_at_every_event() -> None:
    assert {cut for name in STRATEGIES for cut in cuts(name)} == set(range(EVENTS))


@pytest.mark.slow
@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_search_that_is_cut_goes_on_as_if_it_had_not_been(
    tmp_path: Path, name: StrategyName, steady: bool
) -> None:
    def search(file: Path, crash_after: int | None = None) -> object:
        return planted_search(
            file,
            PlantedExecutor(crash_after=crash_after),
            name,
            candidates=EVENTS + 1,
            generation=GENERATION,
            steady=steady,
        )

    expected = search(tmp_path / "whole")
    for cut in cuts(name):
        with suppress(Crash):  # a search that ends before, with nothing new to try, is whole
            search(tmp_path / str(cut), cut)
        assert search(tmp_path / str(cut)) == expected
