"""Promise: Evolver keeps what is better, one place at a time, and ends better than it began."""

from __future__ import annotations

import math

import pytest
import torch
from bred_weights import Weights, best_bred
from hypothesis import given
from hypothesis import strategies as st

from evomerge.operators.randomness import generator
from evomerge.search import evolver
from evomerge.search.contract import Breeding, Result, StrategySettings
from evomerge.search.evolver import Evolver, random_share

SOURCES, PASSES = 3, 15
PLAN = SOURCES * (1 + PASSES)
SETTINGS = StrategySettings(
    dimension=4, generation=SOURCES, seed=7, sources=SOURCES, candidates=PLAN
)
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


@pytest.mark.parametrize(
    ("turn", "share"), [(0, 0.53333), (7, 0.5625), (13, 0.75), (14, 1.0), (15, 1.0), (99, 1.0)]
)
def test_partners_are_random_half_of_the_time_at_first_and_always_in_the_last_of_15_passes(
    turn: int, share: float
) -> None:
    assert round(random_share(turn, 15), 5) == share


@pytest.mark.parametrize("passes", [-1, 0, 1])
def test_a_plan_of_one_pass_or_none_has_random_partners_only(passes: int) -> None:
    assert random_share(0, passes) == 1


@pytest.mark.parametrize("starting", [0, 8])
def test_a_plan_of_n_sources_and_m_passes_is_n_times_1_plus_m_proposals(
    starting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def recorded(turn: int, passes: int) -> float:
        asked.append((turn, passes))
        return random_share(turn, passes)

    monkeypatch.setattr(evolver, "random_share", recorded)
    settings = StrategySettings(
        dimension=1,
        generation=4,
        seed=0,
        sources=SOURCES,
        candidates=PLAN + starting,
        starting=starting,
    )
    assert len(Evolver(settings).ask(PLAN)) == SOURCES * (1 + PASSES)
    # Every place has the chance of its pass, the last pass that of 1.
    assert asked == [(turn, PASSES) for turn in range(PASSES) for _ in range(SOURCES)]
    assert random_share(*asked[-1]) == 1


def test_a_partner_that_is_not_random_is_the_best_other_individual() -> None:
    best = 0
    for seed in range(300):
        strategy = Evolver(
            StrategySettings(dimension=1, generation=3, seed=seed, sources=3, candidates=PLAN)
        )
        strategy.ask(3)
        strategy.tell([told(0.1), told(0.9), told(0.2)])
        (each,) = strategy.ask(1)
        assert isinstance(each, Breeding)
        best += each.parents[1] == 1
    # The best other, or a random one of two.
    random = random_share(0, PASSES)
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


@pytest.mark.parametrize("seed", range(5))
def test_fifteen_passes_end_nearer_to_the_mean_of_five_parents_than_the_best_of_them(
    seed: int,
) -> None:
    parents = torch.randn(5, 8, generator=generator(seed, "toy"))

    def fitness(individual: torch.Tensor) -> float:
        return -float((individual - parents.mean(dim=0)).square().sum())

    settings = StrategySettings(dimension=1, generation=1, seed=seed, sources=5, candidates=80)
    found = best_bred(Evolver(settings), Weights(parents), fitness, proposals=80)
    assert found[-1] > max(map(fitness, parents))
