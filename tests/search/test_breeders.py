"""Promise: a strategy that breeds models repeats itself, and ends only when it says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.search.contract import Breeding, Finished, Proposal, Result, StrategySettings
from evomerge.search.strategies import BREEDERS, FEWEST_SOURCES, build_strategy

if TYPE_CHECKING:
    from evomerge.recipe.search import StrategyName
    from evomerge.search.contract import Strategy

SOURCES = 4
every_breeder = pytest.mark.parametrize("name", sorted(BREEDERS))
fitnesses = st.lists(st.none() | st.floats(-10, 10), min_size=40, max_size=40)


def breeder(name: StrategyName, sources: int = SOURCES) -> Strategy:
    settings = StrategySettings(dimension=4, generation=4, seed=7, sources=sources)
    return build_strategy(name, settings)


def play(
    strategy: Strategy, fitness: list[float | None], at_a_time: int = 4
) -> tuple[list[Proposal], str | None]:
    """What it proposes, generation by generation, and why it ended."""
    found: list[Proposal] = []
    while len(found) < len(fitness):
        try:
            new = strategy.ask(min(at_a_time, len(fitness) - len(found)))
        except Finished as finished:
            return found, str(finished)
        assert new  # nothing is under way that it could wait for
        known = fitness[len(found) : len(found) + len(new)]
        strategy.tell([Result(fitness=each) for each in known])
        found += new
    return found, None


@every_breeder
@given(fitness=fitnesses)
def test_a_replay_proposes_the_same(name: StrategyName, fitness: list[float | None]) -> None:
    first, second = (play(breeder(name), fitness) for _ in range(2))
    assert first == second


@every_breeder
@pytest.mark.parametrize("more", [0, 1, 4])
@pytest.mark.parametrize("at_a_time", [1, 2, 3, 5, 32])
def test_parents_exist_when_they_are_asked_for(
    name: StrategyName, more: int, at_a_time: int
) -> None:
    sources = FEWEST_SOURCES[name] + more
    fitness: list[float | None] = [float(number) for number in range(60)]
    proposals, _ = play(breeder(name, sources), fitness, at_a_time)
    for number, each in enumerate(proposals):
        assert all(parent < sources + number for parent in individuals(each))


def individuals(proposal: Proposal) -> set[int]:
    """All that a proposal is bred from; what is bred for others too is looked at once."""
    found, waiting, seen = set(), [proposal], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, int):
            found.add(each)
        elif isinstance(each, Breeding) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.parents
    return found


@every_breeder
@pytest.mark.parametrize("fitness", [None, 0.5], ids=["all fail", "all alike"])
def test_failures_and_equals_do_not_break_it(name: StrategyName, fitness: float | None) -> None:
    proposals, reason = play(breeder(name), [fitness] * 60)
    assert len(proposals) == 60 or reason


@every_breeder
def test_others_may_be_under_way(name: StrategyName) -> None:
    strategy, waiting, asked = breeder(name), 0, 0
    while asked < 60:
        try:
            new = strategy.ask(1)
        except Finished:
            break
        waiting, asked = waiting + len(new), asked + len(new)
        if waiting > 3 or not new:
            strategy.tell([Result(fitness=0.1 * (asked % 7))])
            waiting -= 1
    with pytest.raises(IndexError):
        strategy.tell([Result(fitness=0.0)] * (waiting + 1))
