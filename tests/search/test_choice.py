"""`auto` is one of the other strategies, and says why."""

from __future__ import annotations

import pytest

from evomerge.search.choice import WIDE, choose
from evomerge.search.contract import Result, StrategySettings
from evomerge.search.strategies import BREEDERS, STRATEGIES, WITHOUT_CENTRE, build_strategy


def _settings(dimension: int, **others: int) -> StrategySettings:
    return StrategySettings(dimension=dimension, generation=4, seed=0, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dimension", "name", "reason"),
    [
        (1, "CMA", "nothing that we measured finds more with 1 gene"),
        (WIDE - 1, "CMA", "nothing that we measured finds more with 59 genes"),
        (WIDE, "DiagonalCMA", "how 60 genes interact cannot be learnt from 48 candidates"),
    ],
)
def test_the_number_of_genes_decides(dimension: int, name: str, reason: str) -> None:
    choice = choose(_settings(dimension, candidates=48))
    assert (choice.name, choice.reason) == (name, reason)


@pytest.mark.parametrize("candidates", [0, 7, 200, 5000])
@pytest.mark.parametrize("objectives", [1, 6])
@pytest.mark.parametrize("dimension", [1, 24, 100])
def test_what_is_chosen_is_a_strategy_for_any_search(
    candidates: int, objectives: int, dimension: int
) -> None:
    choice = choose(_settings(dimension, candidates=candidates, objectives=objectives))
    assert choice.name in STRATEGIES.keys() - {"auto"}


def test_auto_proposes_what_the_chosen_strategy_does() -> None:
    automatic, chosen = (build_strategy(name, _settings(3)) for name in ("auto", "CMA"))
    for _ in range(2):
        points = automatic.ask(4)
        assert points == chosen.ask(4)
        for strategy in (automatic, chosen):
            strategy.tell([Result(fitness=point[0]) for point in points])  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - BREEDERS.keys()))
def test_the_first_points_lie_around_the_centre_but_of_some(name: str) -> None:
    centre = (0.2, 0.3, 0.8, 0.75, 0.25)
    settings = StrategySettings(dimension=5, generation=16, seed=1, centre=centre, step=0.05)
    points = STRATEGIES[name](settings).ask(16)
    away = max(abs(x - c) for point in points for x, c in zip(point, centre, strict=True))  # type: ignore[arg-type]
    assert (away > 0.3) == (name in WITHOUT_CENTRE)
