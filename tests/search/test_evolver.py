"""Promise: Evolver keeps what is better, one place at a time, and repeats itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Breeding, Result, StrategySettings
from evomerge.search.evolver import Evolver, EvolverMean, EvolverTIES

SOURCES = 3
SETTINGS = StrategySettings(dimension=4, generation=SOURCES, seed=7, sources=SOURCES)
fitnesses = st.lists(st.none() | st.floats(-10, 10), min_size=40, max_size=40)


def told(fitness: float | None) -> Result:
    return Result(fitness=fitness)


def test_the_sources_are_the_first_population() -> None:
    assert Evolver(SETTINGS).ask(SOURCES) == [0, 1, 2]


def test_children_are_bred_from_each_place_in_turn_with_another_individual() -> None:
    strategy = Evolver(SETTINGS)
    strategy.ask(SOURCES)
    strategy.tell([told(0.1), told(0.2), told(0.3)])
    for place, each in enumerate(strategy.ask(SOURCES)):
        assert isinstance(each, Breeding)
        assert each.operator == "evolver"
        assert each.parents[0] == place != each.parents[1]
        assert each.parameters == {"mutation": 0.5, "crossover": 0.5}


def test_a_better_child_takes_the_place_and_an_equal_one_does_not() -> None:
    strategy = Evolver(SETTINGS)
    strategy.ask(SOURCES)
    strategy.tell([told(0.1), told(0.2), told(0.3)])
    strategy.ask(
        SOURCES
    )  # individuals 6, 7 and 8: those that were asked for before them are 3, 4 and 5
    strategy.tell([told(0.15), told(0.2), told(None)])
    firsts = [each.parents[0] for each in strategy.ask(SOURCES) if isinstance(each, Breeding)]
    assert firsts == [6, 1, 2]


def test_the_partner_is_random_at_first_half_of_the_time_and_always_in_the_end() -> None:
    # p = 0.5 / (G - g) + 0.5: 0.533 in the first of 15 generations, 1 in the last one.
    best = 0
    for seed in range(300):
        strategy = Evolver(StrategySettings(dimension=1, generation=3, seed=seed, sources=3))
        strategy.ask(3)
        strategy.tell([told(0.1), told(0.9), told(0.2)])
        (each,) = strategy.ask(1)
        assert isinstance(each, Breeding)
        best += each.parents[1] == 1
    # The best other, or a random one of two.
    random = 0.5 / 14 + 0.5
    assert best / 300 == pytest.approx(1 - random + random / 2, abs=0.09)


@given(fitnesses)
def test_no_place_ever_gets_worse(fitness: list[float | None]) -> None:
    strategy = Evolver(SETTINGS)
    before = [-math.inf] * SOURCES
    for start in range(0, len(fitness), 4):
        strategy.ask(4)
        strategy.tell([told(each) for each in fitness[start : start + 4]])
        now = list(strategy._scores)
        assert all(a >= b for a, b in zip(now, before, strict=True))
        before = now


def test_the_mean_of_the_population_is_scored_with_each_child_in_its_place() -> None:
    strategy = EvolverMean(SETTINGS)
    whole, second = strategy.ask(2)
    assert whole == Breeding(operator="linear", parents=(0, 1, 2))
    assert isinstance(second, Breeding)
    assert (second.operator, second.parents[0], second.parents[2]) == ("linear", 0, 2)
    grandchild = second.parents[1]
    assert isinstance(grandchild, Breeding)
    assert grandchild.operator == "evolver"
    strategy.tell([told(0.5), told(0.6)])
    (third,) = strategy.ask(1)
    assert isinstance(third, Breeding)
    assert third.parents[:2] == (0, grandchild)


TIES = {"weight": 1.0, "density": 0.2}


def test_ties_may_merge_the_population_instead() -> None:
    whole, second = EvolverTIES(SETTINGS).ask(2)
    assert whole == Breeding(operator="ties", parents=(0, 1, 2), parameters=TIES)
    assert isinstance(second, Breeding)
    assert second.operator == "ties"
    assert [getattr(parent, "operator", parent) for parent in second.parents] == [0, "evolver", 2]


def test_a_child_that_does_not_better_the_mean_is_forgotten() -> None:
    strategy = EvolverMean(SETTINGS)
    strategy.ask(2)
    strategy.tell([told(0.5), told(0.5)])
    (third,) = strategy.ask(1)
    assert isinstance(third, Breeding)
    assert third.parents[:2] == (0, 1)
